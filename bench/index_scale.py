"""How long the index takes over a history of 10,000 records, and when nothing is new.

There is no peer that answers by digest over a git history, so the bounds are ours alone: seconds once, and less than
what a person notices afterwards.

Runs: python bench/index_scale.py [RECORDS]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from registry.action import Action, ActionInput
from registry.artifact import Artifact, FileEntry
from registry.digest import Digest, digest_bytes
from registry.history import Repository
from registry.index import Index
from registry.record import ArtifactSummary, Record, RecordInput, git_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RECORDS: Final = 10_000
_A_COMMIT: Final = 4  # records that one commit brings
_FILES: Final = 26  # an artifact of a model with 12 layers: two shards a layer, and two files
_FIRST_BOUND_S: Final = 30.0
_NO_OP_BOUND_S: Final = 0.3
_ROUNDS: Final = 9


def main() -> int:
    """Make the history, time the first refresh, a refresh with nothing new, and one question."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else _RECORDS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        records = [_record(number) for number in range(count)]
        _make_history(root, records)
        repository = Repository(root)
        first = _seconds(lambda: Index.open(repository).close())
        no_op = sorted(_seconds(lambda: Index.open(repository).close()) for _ in range(_ROUNDS))[_ROUNDS // 2]
        with Index.open(repository) as index:
            ask = _seconds(lambda: index.by_action(records[count // 2].action.digest))
    print(f"{count} records in {count // _A_COMMIT} commits, {_FILES} files each")
    print(f"first refresh     {first:8.2f} s")
    print(f"nothing new       {no_op:8.3f} s   median of {_ROUNDS}, opening included")
    print(f"one question      {ask * 1000:8.2f} ms")
    results = [_result("index_first", first, _FIRST_BOUND_S), _result("index_no_op", no_op, _NO_OP_BOUND_S)]
    print(json.dumps(results))
    return 0 if all(result["holds"] for result in results) else 1


def _result(name: str, ours: float, bound: float) -> dict[str, object]:
    return {
        "bench": name,
        "ours": round(ours, 4),
        "peer": None,
        "unit": "s",
        "ratio": None,
        "bound": bound,
        "holds": ours <= bound,
    }


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _digest(*parts: object) -> Digest:
    return digest_bytes(repr(parts).encode())


def _record(number: int) -> Record:
    """The record of one stage of a line of models, each made from the one before."""
    shards = [f"model-{shard:05d}-of-{_FILES:05d}.safetensors" for shard in range(_FILES)]
    artifact = Artifact(
        type="model",
        files=tuple(FileEntry(path=path, size_bytes=1 << 20, digest=_digest(number, path)) for path in shards),
        tensors=(),
    )
    inputs = (("from", _digest("artifact", number - 1)), ("data", _digest("data", number % 50)))
    return Record(
        variant=f"variant-{number % 200}",
        stage=f"stage-{number // 200 % 10}",
        action=Action(
            kind="sft",
            recipe=1,
            settings={"train": {"seed": number, "learning_rate": 2e-4, "epochs": 2}},
            inputs=tuple(ActionInput(role=role, digest=digest) for role, digest in inputs),
        ),
        artifact=ArtifactSummary.of(artifact),
        inputs=tuple(
            RecordInput(role=role, name=role, digest=digest, weights_digest=None, source=f"data:{role}")
            for role, digest in inputs
        ),
        components=(),
        metrics={"loss": {"value": 1.0 + number}},
        environment={"torch": "2.13.0"},
        device="cpu",
        micro_batch=4,
        duration_s=60.0,
        peak_memory_mib=900.0,
        depends_on=(),
        notes=(),
        reused_from="",
    )


def _make_history(root: Path, records: list[Record]) -> None:
    """A repository with a commit for every few records, by `git fast-import`; nothing in the work tree."""
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(root)], check=True)
    stream = b"".join(_commits(records))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=root, input=stream, check=True)


def _commits(records: list[Record]) -> Iterator[bytes]:
    for start in range(0, len(records), _A_COMMIT):
        message = f"Build {start}".encode()
        when = 1_700_000_000 + start
        yield f"commit refs/heads/main\ncommitter A <a@example.org> {when} +0000\ndata {len(message)}\n".encode()
        yield message + b"\n"
        for record in records[start : start + _A_COMMIT]:
            data = record.to_bytes()
            yield f"M 100644 inline {git_record(record.variant, record.stage)}\ndata {len(data)}\n".encode()
            yield data + b"\n"


if __name__ == "__main__":
    sys.exit(main())
