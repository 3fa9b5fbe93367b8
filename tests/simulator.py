"""A remote in memory that can lie, break and stall, and the artifacts that lie in it."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.action import Action, ActionInput
from registry.artifact import Artifact
from registry.digest import digest_bytes
from registry.errors import DeniedError, NotFoundError, TransportError
from registry.record import ArtifactSummary, Record, RecordInput
from registry.safetensors import TensorSpec, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from registry.artifact import ArtifactType

__all__ = ["Simulator", "make_artifact", "make_record", "md5"]


@dataclass
class Simulator:
    """A source that holds its objects in memory.

    Attributes:
        name: What messages call it.
        objects: Bytes by object id.
        flipped: Objects that come with their last byte changed.
        cut: Objects that end early, and after how many bytes; the stream just ends.
        endless: Objects that never end.
        broken: Objects whose connection breaks, and after how many bytes each time; once the list is used up it holds.
        denied: Objects that may not be read.
        block_bytes: Most bytes that one read gives; 0 for as many as asked for.
        pause_s: Seconds that each read takes.
        opened: Every ``open``: object id and offset.
        read_bytes: Bytes given, by object id.
    """

    name: str = "remote 'simulated'"
    objects: dict[str, bytes] = field(default_factory=dict)
    flipped: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    endless: set[str] = field(default_factory=set)
    broken: dict[str, list[int]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    block_bytes: int = 0
    pause_s: float = 0.0
    opened: list[tuple[str, int]] = field(default_factory=list)
    read_bytes: Counter[str] = field(default_factory=Counter)

    def push(self, folder: Path) -> str:
        """Take in a folder as ``dvc push`` would; returns the object id of its listing."""
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return self.push_listing({path: self.push_object((folder / path).read_bytes()) for path in paths})

    def push_object(self, data: bytes) -> str:
        """Take in one object; returns its id."""
        self.objects[md5(data)] = data
        return md5(data)

    def push_listing(self, entries: Mapping[str, str] | Sequence[tuple[str, str]]) -> str:
        """Take in a listing of ``(path, object id)``, honest or not; returns its id."""
        pairs = list(entries if not hasattr(entries, "items") else entries.items())
        return self.push_raw_listing(json.dumps([{"md5": oid, "relpath": path} for path, oid in pairs]).encode())

    def push_raw_listing(self, data: bytes) -> str:
        """Take in bytes as a listing; returns its id."""
        oid = f"{md5(data)}.dir"
        self.objects[oid] = data
        return oid

    @contextmanager
    def open(self, oid: str, offset: int) -> Iterator[_Stream]:
        self.opened.append((oid, offset))
        if oid in self.denied:
            raise DeniedError("reading is not allowed: 403", where=f"{self.name}: {oid}", mend="check the credentials")
        if oid not in self.objects:
            raise NotFoundError(
                "there is no such object", where=f"{self.name}: {oid}", mend="run `dvc push` where it was built"
            )
        data = self.objects[oid]
        if oid in self.flipped:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if oid in self.cut:
            data = data[: self.cut[oid]]
        yield _Stream(self, oid, io.BytesIO(data[offset:]), self._breaks_after(oid))

    def exists(self, oids: Iterable[str]) -> frozenset[str]:
        return frozenset(oids) & frozenset(self.objects)

    def _breaks_after(self, oid: str) -> int:
        """Bytes until the connection breaks; -1 for never."""
        breaks = self.broken.get(oid)
        return breaks.pop(0) if breaks else -1


class _Stream:
    def __init__(self, simulator: Simulator, oid: str, data: io.BytesIO, breaks_after: int) -> None:
        self._simulator = simulator
        self._oid = oid
        self._data = data
        self._left = breaks_after

    def read(self, size: int, /) -> bytes:
        simulator = self._simulator
        time.sleep(simulator.pause_s)
        if self._left == 0:
            raise TransportError(
                "reading failed: connection reset", where=f"{simulator.name}: {self._oid}", mend="pull again"
            )
        limits = [size, simulator.block_bytes or size, self._left if self._left > 0 else size]
        block = self._data.read(min(limits))
        if not block and self._oid in simulator.endless:
            block = bytes(min(limits))
        self._left -= len(block) if self._left > 0 else 0
        simulator.read_bytes[self._oid] += len(block)
        return block


def md5(data: bytes) -> str:
    """How DVC names an object."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def make_artifact(folder: Path, *, kind: ArtifactType = "model", seed: int = 0, size_bytes: int = 300_000) -> Artifact:
    """A small artifact: two weight files, a config in a folder of its own, an empty file, and the listing."""
    folder.mkdir(parents=True)
    for index in range(2):
        spec = TensorSpec(name=f"layer.{index}.weight", dtype="U8", shape=(size_bytes,))
        with Writer(folder / f"model-{index}.safetensors", [spec], {"format": "pt"}) as writer:
            writer.write(_bytes(f"{seed}.{index}", size_bytes))
            writer.finish()
    (folder / "chat").mkdir()
    (folder / "chat" / "template.jinja").write_text(f"{{{{ messages }}}} {seed}")
    (folder / "merges.txt").write_bytes(b"")
    artifact = Artifact.from_folder(folder, kind)
    artifact.write(folder)
    return artifact


def make_record(artifact: Artifact, *, variant: str = "support", stage: str = "final") -> Record:
    """A record of an artifact, trained from one base."""
    base, weights = digest_bytes(b"base"), digest_bytes(b"base weights")
    return Record(
        variant=variant,
        stage=stage,
        action=Action(kind="sft", recipe=1, settings={}, inputs=(ActionInput(role="from", digest=base),)),
        artifact=ArtifactSummary.of(artifact),
        inputs=(RecordInput(role="from", name="base", digest=base, weights_digest=weights, source="bases:tiny"),),
        components=(),
        metrics={},
        environment={},
        device="cpu",
        micro_batch=0,
        duration_s=1.0,
        peak_memory_mib=1.0,
        depends_on=(),
        notes=(),
        reused_from="",
    )


def _bytes(seed: str, count: int) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(count)
