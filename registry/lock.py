"""DVC's lock file as values: what each stage last ran with and gave. Text in, nothing is opened.

DVC names content by md5; that finds bytes in its cache or a remote. What they must be is in the record, by sha256.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.artifact import check_path
from registry.block_yaml import read_block
from registry.conflict_markers import conflict_line
from registry.errors import InvalidError, NotFoundError
from registry.yaml12 import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["Lock", "LockedFile", "LockedStage", "content_md5"]

_MD5 = re.compile(r"[0-9a-f]{32}(?:\.dir)?")
_MAX_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedFile:
    """A dependency or an output.

    Attributes:
        path: From the root of the repository.
        md5: DVC's name of the content: 32 hexadecimal digits, with ``.dir`` after them for a folder.
        size_bytes: Its size.
    """

    path: str
    md5: str
    size_bytes: int

    @property
    def is_folder(self) -> bool:
        """Whether ``md5`` names the listing of a folder."""
        return self.md5.endswith(".dir")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedStage:
    """A stage as it last ran.

    Attributes:
        name: Its name; a base is ``base@<name>``.
        command: What DVC ran.
        dependencies: By path.
        parameters: Value by key, by file.
        outputs: By path.
    """

    name: str
    command: str
    dependencies: Mapping[str, LockedFile]
    parameters: Mapping[str, Mapping[str, JSON]]
    outputs: Mapping[str, LockedFile]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A lock file.

    Attributes:
        where: Its path, for errors.
        stages: By name.
    """

    where: str
    stages: Mapping[str, LockedStage]

    @classmethod
    def parse(cls, text: str | bytes, *, where: str) -> Lock:
        """Read a lock file.

        Raises:
            InvalidError: It is not what DVC 3 writes, a merge left its conflict markers, or a path leaves the
                repository.
        """
        value = _read(text, where)
        document = _Reader(value, where, "")
        version = document.get("schema") if value else "2.0"
        if version != "2.0":
            raise document.wrong("schema", "'2.0'", repr(version))
        stages = document.table("stages").items()
        return cls(where=where, stages={name: _stage(name, stage) for name, stage in stages})

    def output(self, path: str) -> LockedFile:
        """What some stage gave at a path.

        Raises:
            NotFoundError: No stage here gives it.
        """
        for stage in self.stages.values():
            if path in stage.outputs:
                return stage.outputs[path]
        raise NotFoundError(f"no stage gives {path}", where=self.where, mend="build it with `dvc repro` and commit")


def content_md5(data: bytes) -> str:
    """DVC's name of a file with these bytes."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _read(text: str | bytes, where: str) -> JSON:
    try:
        return _read_quickly(text) or load(text, where, max_bytes=_MAX_BYTES).value
    except InvalidError as error:
        if not conflict_line(text):
            raise
        raise InvalidError(
            "a merge left its conflict markers in the lock",
            where=where,
            mend=f"take one side, `git checkout --theirs {where}`, or after the merge `git checkout COMMIT {where}`; "
            "then `varietal build`: nothing that was built is lost",
        ) from error


def _read_quickly(text: str | bytes) -> JSON:
    """The document, where it is as DVC writes it; nothing else is judged here."""
    if not text.isascii() or len(text) > _MAX_BYTES:
        return None
    return read_block(text.decode("ascii") if isinstance(text, bytes) else text)


class _Reader:
    """A table of the document, with its key path."""

    def __init__(self, value: JSON, where: str, key: str) -> None:
        if not isinstance(value, dict):
            raise _invalid(where, key, "a table", repr(value)[:40])
        self._value = value
        self._where = where
        self._key = key

    def get(self, key: str) -> JSON:
        return self._value.get(key)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "text", repr(value))
        return value

    def table(self, key: str) -> _Reader:
        return _Reader(self._value.get(key, {}), self._where, self.path(key))

    def items(self) -> list[tuple[str, _Reader]]:
        return [(key, _Reader(value, self._where, self.path(key))) for key, value in self._value.items()]

    def values(self) -> Mapping[str, JSON]:
        return self._value

    def files(self, key: str) -> dict[str, LockedFile]:
        rows = self._value.get(key, [])
        if not isinstance(rows, list):
            raise self.wrong(key, "a list", repr(rows)[:40])
        readers = (_Reader(row, self._where, f"{self.path(key)}[{index}]") for index, row in enumerate(rows))
        return {file.path: file for file in (reader.file() for reader in readers)}

    def file(self) -> LockedFile:
        path, md5, size_bytes = self.text("path"), self.text("md5"), self.get("size")
        check_path(path, where=f"{self._where}: {self._key}")
        if _MD5.fullmatch(md5) is None:
            raise self.wrong("md5", "32 hexadecimal digits", repr(md5))
        if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or size_bytes < 0:
            raise self.wrong("size", "a whole number from 0", repr(size_bytes))
        return LockedFile(path=path, md5=md5, size_bytes=size_bytes)

    def path(self, key: str) -> str:
        return f"{self._key}.{key}" if self._key else key

    def wrong(self, key: str, expected: str, got: str) -> InvalidError:
        return _invalid(self._where, self.path(key), expected, got)


def _stage(name: str, reader: _Reader) -> LockedStage:
    return LockedStage(
        name=name,
        command=reader.text("cmd"),
        dependencies=reader.files("deps"),
        parameters={file: keys.values() for file, keys in reader.table("params").items()},
        outputs=reader.files("outs"),
    )


def _invalid(where: str, key: str, expected: str, got: str) -> InvalidError:
    return InvalidError(
        f"{key}: expected {expected}, got {got}", where=where, mend="restore the lock from git, or run `dvc repro`"
    )
