"""A stage of every kind of weights, broken off by kill -9 or by a full disk: nothing half is shown or taken for good.

What a broken run left in its work folder is replaced by junk of the same size before the next run, but for what speaks
of it, a record or a listing: the next run must give the bytes of one that nobody disturbed, whatever it finds there.
"""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from registry.artifact import LISTING, Artifact
from registry.errors import InvalidError
from registry.record import Record, artifact_folder, artifact_record
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.forked import Commands, Ended

KINDS: Final = ("fold", "fuse", "blend", "extract", "graft", "cast")
PUT: Final = "registry.safetensors:Writer._put"  # writes a header or a block of a shard
SMALL: Final = 64  # a buffer that does not take up a whole tiny shard
RECORD_BYTES: Final = 200  # less than a record, more than one differs from another in length


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """What a run that nobody disturbed did.

    Attributes:
        artifact: What it made.
        puts: How many pieces of shards it wrote.
        shards_bytes: Bytes that it had written when the last shard was.
        written_bytes: Bytes that it wrote, its record and all else included.
    """

    artifact: Artifact
    puts: int
    shards_bytes: int
    written_bytes: int


@pytest.fixture(scope="module")
def whole(prepared: Path, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Whole]:
    """Each kind, run once in a copy of the repository."""
    root = tmp_path_factory.mktemp("whole") / "team"
    shutil.copytree(prepared, root)
    found = {}
    for kind in KINDS:
        ended = commands.run(root, "run", "mixed", kind, function=PUT, buffer_bytes=SMALL)
        assert ended.code == 0, ended.err
        artifact = Artifact.read(root / artifact_folder("mixed", kind))
        found[kind] = Whole(
            artifact=artifact,
            puts=ended.calls,
            shards_bytes=ended.reached_bytes,
            written_bytes=ended.written_bytes,
        )
    return found


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "team")
    return tmp_path / "team"


def shown(root: Path, kind: str) -> list[str]:
    """What can be seen of a stage, its folders that are hidden until they are whole included."""
    beside = (root / artifact_folder("mixed", kind)).parent
    return sorted(path.name for path in beside.iterdir() if kind in path.name)


def left(root: Path) -> list[Path]:
    """Files that a broken run left in its work folder, the lock and what speaks of them aside."""
    files = (path for path in (root / ".varietal/work").rglob("*") if path.is_file())
    return sorted(path for path in files if path.name not in {"lock", "record.json", LISTING})


def is_half(path: Path) -> bool:
    try:
        read_header(path)
    except InvalidError:
        return True
    return False


def half_shards(root: Path) -> list[Path]:
    return [path for path in left(root) if path.suffix == ".safetensors" and is_half(path)]


def assert_the_next_run_is_as_good_as_ever(root: Path, kind: str, commands: Commands, whole: Whole) -> None:
    for path in left(root):
        junk = b"\xa5" * path.stat().st_size
        path.unlink()  # it may be linked to an input
        path.write_bytes(junk)
    commands.must(root, "run", "mixed", kind)
    folder = root / artifact_folder("mixed", kind)
    assert Artifact.read(folder) == whole.artifact
    whole.artifact.verify_folder(folder)
    record = Record.from_bytes((root / artifact_record("mixed", kind)).read_bytes(), where=kind)
    assert record.artifact.digest == whole.artifact.digest
    assert record.reused_from == ""
    assert not list((root / ".varietal/work").iterdir())
    assert shown(root, kind) == [kind, f"{kind}.json"]


@pytest.mark.parametrize("point", ["half of the shards", "the last block", "the listing", "before it is shown"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed(root: Path, commands: Commands, whole: Mapping[str, Whole], kind: str, point: str) -> None:
    puts = whole[kind].puts
    function, at = {
        "half of the shards": (PUT, puts // 2 + 1),
        "the last block": (PUT, puts),
        "the listing": ("registry.artifact:Artifact.write", 1),
        "before it is shown": ("builder.run:publish", 1),
    }[point]
    killed = commands.run(root, "run", "mixed", kind, function=function, at=at, buffer_bytes=SMALL)
    assert killed.code == -signal.SIGKILL, killed.err
    assert shown(root, kind) == []
    if point == "half of the shards":
        assert commands.run(root, "show", f"mixed:{kind}").code == 2
    assert bool(half_shards(root)) == (function == PUT)
    assert_the_next_run_is_as_good_as_ever(root, kind, commands, whole[kind])


def assert_full(ended: Ended, kind: str) -> None:
    assert ended.code == 8, ended.err
    said = ended.err[ended.err.rindex("the disk is full") :]
    assert said == (
        "the disk is full\n"
        f"  where: mixed:{kind}\n"
        "  mend: make room and run again: nothing half-written is shown, checkpoints are kept in .varietal/work\n"
    )


@pytest.mark.parametrize(("share", "buffer_bytes"), [(0.3, SMALL), (0.6, 8192)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_disk_ends_inside_the_shards(
    root: Path, commands: Commands, whole: Mapping[str, Whole], *, kind: str, share: float, buffer_bytes: int
) -> None:
    """In the middle of a write, or when what is in a buffer is written at the end of a file."""
    room = int(share * whole[kind].shards_bytes)
    ended = commands.run(root, "run", "mixed", kind, room_bytes=room, buffer_bytes=buffer_bytes)
    assert_full(ended, kind)
    assert shown(root, kind) == []
    assert half_shards(root) == []
    assert_the_next_run_is_as_good_as_ever(root, kind, commands, whole[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_disk_ends_inside_the_record(root: Path, commands: Commands, whole: Mapping[str, Whole], kind: str) -> None:
    """The last thing that is written: what was shown before it is whole."""
    ended = commands.run(root, "run", "mixed", kind, room_bytes=whole[kind].written_bytes - RECORD_BYTES)
    assert_full(ended, kind)
    assert kind in shown(root, kind)
    assert f"{kind}.json" not in shown(root, kind)
    whole[kind].artifact.verify_folder(root / artifact_folder("mixed", kind))
    assert_the_next_run_is_as_good_as_ever(root, kind, commands, whole[kind])
