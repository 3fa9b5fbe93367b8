"""A ``.dvc`` file of a request: the md5 of one data file, and nothing else that such a file can say. Pure.

DVC's own format can name commands, other repositories, other remotes and folders. A folder's listing comes from a
remote, and DVC would follow ``../`` in it; so a request tracks single files only. What is taken is written anew, so
that no second reader can find more in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from registry import yaml12
from registry.errors import Fault, InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from registry.canonical import JSON

__all__ = ["MAX_POINTER_BYTES", "Pointer", "read_pointer"]

MAX_POINTER_BYTES = 1 << 14

_MD5 = re.compile(r"[0-9a-f]{32}")
_KEYS = frozenset({"outs", "desc", "meta"})
_OUT_KEYS = frozenset({"path", "md5", "size", "hash", "desc", "meta", "type", "labels"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """One data file that DVC keeps.

    Attributes:
        path: The data file, from the root.
        md5: DVC's name of its bytes.
        size_bytes: Its size.
    """

    path: str
    md5: str
    size_bytes: int

    def text(self) -> str:
        """The ``.dvc`` file, as ``dvc add`` writes it."""
        name = PurePosixPath(self.path).name.replace("'", "''")
        return f"outs:\n- md5: {self.md5}\n  size: {self.size_bytes}\n  hash: md5\n  path: '{name}'\n"


def read_pointer(data: bytes, path: str) -> Pointer:
    """Read a ``.dvc`` file.

    Args:
        data: Its bytes.
        path: Its path, from the root.

    Raises:
        InvalidError: Its faults, all of them.
    """
    document = yaml12.load(data, path, max_bytes=MAX_POINTER_BYTES)
    out, problems = _the_out(document.value)
    problems += _problems(out, PurePosixPath(path).name.removesuffix(".dvc")) if out is not None else ()
    if problems:
        raise InvalidError.from_faults(
            Fault(file=path, line=yaml12.line_of(document.lines, key), key=yaml12.dotted(key), problem=text, mend=_MEND)
            for key, text in problems
        )
    facts = out or {}
    return Pointer(path=path.removesuffix(".dvc"), md5=str(facts["md5"]), size_bytes=cast("int", facts["size"]))


def _the_out(value: JSON) -> tuple[Mapping[str, JSON] | None, list[tuple[yaml12.KeyPath, str]]]:
    """The one table below ``outs``, where there is one, and what is wrong around it."""
    if not isinstance(value, dict):
        return None, [((), "no table")]
    problems: list[tuple[yaml12.KeyPath, str]] = [((key,), _REFUSED) for key in sorted(value.keys() - _KEYS)]
    outs = value.get("outs")
    out = outs[0] if isinstance(outs, list) and len(outs) == 1 else None
    if not isinstance(out, dict):
        return None, [*problems, (("outs",), "expected a list of one table")]
    return out, problems


def _problems(out: Mapping[str, JSON], name: str) -> Iterator[tuple[yaml12.KeyPath, str]]:
    yield from ((("outs", 0, key), _REFUSED) for key in sorted(out.keys() - _OUT_KEYS))
    if out.get("path") != name:
        yield ("outs", 0, "path"), f"expected {name!r}, the file beside this one, got {str(out.get('path'))[:80]!r}"
    md5, size = out.get("md5"), out.get("size")
    if not isinstance(md5, str) or _MD5.fullmatch(md5) is None:
        folder = ": folders are not taken from a request" if str(md5).endswith(".dir") else ""
        yield ("outs", 0, "md5"), f"expected 32 hexadecimal digits of one file{folder}"
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        yield ("outs", 0, "size"), "expected a whole number of bytes"
    if out.get("hash") != "md5":
        yield ("outs", 0, "hash"), "expected md5, as DVC 3 writes it"


_REFUSED = "a key that a request may not use here"
_MEND = "track one data file with `dvc add data/FILE`, by DVC 3, and keep the file that it writes"
