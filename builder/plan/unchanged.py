"""Variants that were seen to need no build and have not been touched since, so that nothing of them is parsed again.

A variant's signature is made of size, times and inode of every file that its verdicts hang on: manifest, pipeline,
lock, records, artifacts, data; and of params.yaml by value, of this tool's version and of its recipes. A variant is
taken for unchanged if its own signature, and that of every variant that it is made from, is the one that was written
down. It is written down only where every stage is kept, and where every time in it is well in the past, as for
:mod:`hashes <builder.plan.digests>`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.address import Address
from builder.kinds import KINDS
from builder.pipeline import BASES_PIPELINE
from builder.plan.digests import TICK_NS
from builder.plan.memo import Seen
from builder.plan.values import PlannedStage
from registry import __version__, yaml12
from registry.errors import InvalidError
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.plan.memo import Memo

__all__ = ["Kept", "Unchanged"]

_FILES = ("model.yaml", "dvc.yaml", "dvc.lock")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A variant of which nothing has to be built.

    Attributes:
        stages: Its stages, each after those of its own that it reads from.
        oids: DVC's name of each stage's folder.
        data: Data files that they read.
    """

    stages: tuple[PlannedStage, ...]
    oids: Mapping[Address, str]
    data: tuple[str, ...]

    @property
    def made_from(self) -> frozenset[str]:
        """The variants that they read from."""
        return frozenset(need.variant for one in self.stages for need in one.needs)

    def to_body(self) -> str:
        """As the memo keeps it."""
        rows = [
            [*_place(one.address), one.kind, self.oids[one.address], [_place(need) for need in one.needs]]
            for one in self.stages
        ]
        return json.dumps({"stages": rows, "data": self.data}, separators=(",", ":"))

    @classmethod
    def from_body(cls, text: str) -> Kept:
        """Of what the memo kept.

        Raises:
            ValueError: It is none.
            TypeError: It is none.
            KeyError: It is none.
        """
        value = json.loads(text)
        stages, oids = [], {}
        for variant, stage, kind, oid, needs in value["stages"]:
            address = Address(variant=variant, stage=stage)
            oids[address] = oid
            wanted = tuple(Address(variant=other, stage=name) for other, name in needs)
            stages.append(PlannedStage(address=address, kind=kind, verdict="keep", needs=wanted))
        return cls(stages=tuple(stages), oids=oids, data=tuple(value["data"]))


@dataclass(kw_only=True, slots=True)
class _Stamps:
    """Lines that change when a file does, and the youngest time in them."""

    lines: list[str] = field(default_factory=list)
    youngest_ns: int = 0

    def add(self, path: str, name: str, *, follow: bool = False) -> None:
        """Of one file; a link of its own unless it is to be followed, whose second time may change with other links."""
        try:
            facts = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - tens of thousands of them
        except OSError:
            self.lines.append(f"{name} -")
            return
        self._keep(name, facts, follow=follow)

    def add_tree(self, path: str, name: str, *, follow: bool = True) -> None:
        """Of every file below a folder; see :meth:`add`."""
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError:
            self.lines.append(f"{name} -")
            return
        for entry in entries:
            inner = f"{name}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                self.lines.append(f"{inner}/")
                self.add_tree(entry.path, inner, follow=follow)
                continue
            try:
                facts = entry.stat(follow_symlinks=follow)
            except OSError:
                self.lines.append(f"{inner} -")
            else:
                self._keep(inner, facts, follow=follow)

    def take(self, other: _Stamps) -> None:
        """Those of another."""
        self.lines += other.lines
        self.youngest_ns = max(self.youngest_ns, other.youngest_ns)

    def _keep(self, name: str, facts: os.stat_result, *, follow: bool) -> None:
        line = f"{name} {facts.st_mode:o} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}"
        self.youngest_ns = max(self.youngest_ns, facts.st_mtime_ns)
        if not follow:
            line += f" {facts.st_ctime_ns}"
            self.youngest_ns = max(self.youngest_ns, facts.st_ctime_ns)
        self.lines.append(line)


class Unchanged:
    """The memo's variants, held against the work tree as it is now.

    Attributes:
        names: Every variant that has a manifest, and ``bases``; sorted.
        kept: Those that need no build, by name.
    """

    def __init__(self, root: Path, memo: Memo) -> None:
        """Look at every file once; nothing is parsed but params.yaml.

        Raises:
            InvalidError: params.yaml cannot be read.
        """
        self._root = str(root)
        self._memo = memo
        self._began_ns = time.time_ns()
        self._shared = _shared(root)
        self._data: dict[str, _Stamps] = {}
        self.names = tuple(sorted([BASES, *_variants(self._root)]))
        self._seen = memo.variants()
        self.kept = self._find()

    @property
    def changed(self) -> tuple[str, ...]:
        """Variants that have to be looked at, sorted."""
        return tuple(name for name in self.names if name not in self.kept)

    def keep(self, found: Mapping[str, Kept]) -> None:
        """Write down variants that need no build, and forget the others that were looked at."""
        rows = {}
        for name, kept in found.items():
            signature, youngest_ns = self._signature(name, kept.data)
            if youngest_ns < self._began_ns - TICK_NS:
                rows[name] = Seen(signature, kept.to_body())
        self._memo.keep_variants(rows, gone=self._seen.keys() - self.kept.keys() - rows.keys())

    def _find(self) -> dict[str, Kept]:
        """Rows whose signature holds, less those that are made from a variant whose does not."""
        holding: dict[str, Kept] = {}
        for name in self.names:
            seen = self._seen.get(name)
            if seen is None:
                continue
            try:
                kept = Kept.from_body(seen.body)
            except (ValueError, TypeError, KeyError):
                continue
            if self._signature(name, kept.data)[0] == seen.signature:
                holding[name] = kept
        made_from = {name: kept.made_from - {name} for name, kept in holding.items()}
        while fallen := [name for name, others in made_from.items() if others - made_from.keys()]:
            for name in fallen:
                del made_from[name]
        return {name: holding[name] for name in made_from}

    def _signature(self, name: str, data: Sequence[str]) -> tuple[str, int]:
        """What changes with any file that the variant's verdicts hang on, and the youngest time in it."""
        stamps = _Stamps()
        home = f"{self._root}/{BASES}" if name == BASES else f"{self._root}/models/{name}"
        stamps.add(home, "/")  # a folder's own time says that a file came or went, and that it is no link
        for file in _FILES:
            stamps.add(f"{home}/{file}", file)
        stamps.add_tree(f"{home}/records", "records", follow=False)
        stamps.add_tree(home if name == BASES else f"{home}/artifacts", "artifacts")
        for path in data:
            stamps.take(self._data_stamps(path))
        text = "\n".join((self._shared, *stamps.lines))
        return blake2b(text.encode(errors="surrogateescape"), digest_size=20).hexdigest(), stamps.youngest_ns

    def _data_stamps(self, path: str) -> _Stamps:
        """Of a data file and of what DVC knows of it; many variants share their data."""
        if path not in self._data:
            stamps = self._data[path] = _Stamps()
            stamps.add(f"{self._root}/{path}", path, follow=True)
            stamps.add_tree(f"{self._root}/{path}", path)  # a folder of files; of a file, a line that says nothing
            for part in (path, *map(str, PurePosixPath(path).parents[:-1])):
                stamps.add(f"{self._root}/{part}.dvc", f"{part}.dvc")
        return self._data[path]


def _variants(root: str) -> Iterator[str]:
    try:
        entries = os.scandir(f"{root}/models")
    except OSError:
        return
    for entry in entries:
        if os.path.lexists(f"{entry.path}/model.yaml"):
            yield entry.name


def _shared(root: Path) -> str:
    """What every verdict hangs on: params.yaml by value, this tool, and what DVC does not look at."""
    path = str(manifest_file(BASES))
    try:
        params = yaml12.load((root / path).read_bytes(), path).value
    except (OSError, InvalidError):
        params = None  # to load the manifests says what is wrong with it
    ignored = root / ".dvcignore"
    value = {
        "params": params,
        "tool": __version__,
        "recipes": {name: kind.recipe for name, kind in KINDS.items()},
        "bases": BASES_PIPELINE,
        "ignored": ignored.read_text(encoding="utf-8", errors="replace") if ignored.is_file() else "",
        "began": time.time_ns() if params is None else 0,
    }
    return blake2b(json.dumps(value, sort_keys=True).encode(errors="surrogateescape"), digest_size=20).hexdigest()


def _place(address: Address) -> tuple[str, str]:
    return address.variant, address.stage
