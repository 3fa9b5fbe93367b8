"""Which models meet in which layers, as a mergekit file says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from builder.mergekit.setting import Setting, Slice, read_setting
from builder.shapes import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.mergekit.book import Book
    from builder.mergekit.document import Document
    from builder.mergekit.method import Method
    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = ["Meeting", "Parameters", "Source", "read_meetings", "read_parameters"]

Parameters = dict[str, Setting]
_PAIR = 2


class Source(NamedTuple):
    """One model of a meeting.

    Attributes:
        name: Our name of it.
        first: First layer that is taken.
        length: How many; 0 for all.
        parameters: What is said on it alone.
    """

    name: str
    first: int
    length: int
    parameters: Mapping[str, Setting]

    @property
    def layers(self) -> str:
        """As a manifest says them, the last one included."""
        return str(self.first) if self.length == 1 else f"{self.first}-{self.first + self.length - 1}"


class Meeting(NamedTuple):
    """Models whose layers are blended one with one.

    Attributes:
        at: Where the layers come to lie.
        sources: The models.
        parameters: What is said on all of them.
        path: Where it stands, for faults.
    """

    at: Slice
    sources: tuple[Source, ...]
    parameters: Mapping[str, Setting]
    path: KeyPath

    @property
    def names(self) -> list[str]:
        """Our names of the models."""
        return [source.name for source in self.sources]


class _Reader(NamedTuple):
    document: Document
    book: Book
    method: Method
    base: str


def read_meetings(document: Document, book: Book, method: Method, base: str) -> list[Meeting]:
    """The models of a merge, or its slices in order; what cannot be read is left out, its faults in the reading.

    Args:
        document: The merge.
        book: Takes the names.
        method: What its parameters may be.
        base: Our name of its ``base_model``; empty without one.
    """
    given = [key for key in ("models", "slices") if document.table.get(key) is not None]
    if len(given) != 1:
        document.fault((), "expected either models or slices", "write one of them")
        return []
    key = given[0]
    value = document.table[key]
    if not isinstance(value, list) or not value:
        document.fault((key,), f"expected a list, got {shown(value)}", "write a list of tables")
        return []
    reader = _Reader(document, book, method, base)
    if key == "models":
        return [_whole(reader, value)]
    meetings: list[Meeting] = []
    for index, one in enumerate(value):
        meetings += _slice(reader, (key, index), one, meetings, whole=len(value) == 1)
    return meetings


def read_parameters(
    document: Document, value: JSON, path: KeyPath, method: Method, *, each: bool = False
) -> dict[str, Setting]:
    """The parameters of one place, checked against what the method reads there.

    Args:
        document: Takes the faults.
        value: What stands there; nothing is fine.
        path: Where.
        method: The merge's.
        each: Whether they are of one model.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        document.fault(path, f"expected a table, got {shown(value)}", "write parameters and their values")
        return {}
    known = method.each if each else {**method.each, **method.shared}
    found: dict[str, Setting] = {}
    for key, one in value.items():
        place = (*path, key)
        if key not in known:
            said = " of one model" if each and key in method.shared else ""
            advice = nearest(key, known, "parameters here")
            mend = advice if advice.startswith("did you mean") else "take it out: mergekit ignores it"
            document.fault(place, f"{document.table['merge_method']} has no parameter {key!r}{said}", mend)
        elif (setting := read_setting(one, place, document.reading, flags=key in method.flags)) is not None:
            found[key] = setting
    return found


def _whole(reader: _Reader, value: list[JSON]) -> Meeting:
    """Whole models; a base that the list lacks takes part, too, where the method knows no base."""
    found = [_source(reader, one, ("models", index), sliced=False) for index, one in enumerate(value)]
    sources = [one for one in found if one is not None]
    if reader.base and reader.method.base == "not" and reader.base not in [one.name for one in sources]:
        sources.append(Source(name=reader.base, first=0, length=0, parameters={}))
    _check_twice(reader.document, [one.name for one in sources], ("models",))
    return Meeting(at=Slice(), sources=tuple(sources), parameters={}, path=("models",))


def _slice(reader: _Reader, path: KeyPath, value: JSON, before: Sequence[Meeting], *, whole: bool) -> Iterator[Meeting]:
    document = reader.document
    sources = value.get("sources") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(sources, list) or not sources:
        document.fault(path, "expected a table with sources", "write a list of models under `sources`")
        return
    document.check_keys(value, path, ("sources", "base_model", "parameters"))
    own = value.get("base_model")
    if own is not None and reader.book.refer(document, own, (*path, "base_model")) != reader.base:
        mend = "write one base_model for all slices, or merges of their own"
        document.fault((*path, "base_model"), "a slice with another base_model", mend)
    found = [_source(reader, one, (*path, "sources", index), sliced=True) for index, one in enumerate(sources)]
    known = tuple(one for one in found if one is not None)
    _check_twice(document, [one.name for one in known], (*path, "sources"))
    if len({one.length for one in known}) > 1:
        told = ", ".join(f"{one.length} of {one.name}" for one in known)
        document.fault(path, f"its sources have different numbers of layers: {told}", "take equally many of each")
    start = sum(one.at.count for one in before)
    at = Slice(
        start=start,
        count=known[0].length if known else 0,
        whole=whole,
        moved=any(one.first != start for one in known),
    )
    parameters = read_parameters(document, value.get("parameters"), (*path, "parameters"), reader.method)
    yield Meeting(at=at, sources=known, parameters=parameters, path=path)


def _source(reader: _Reader, value: JSON, path: KeyPath, *, sliced: bool) -> Source | None:
    document = reader.document
    if not isinstance(value, dict) or "model" not in value:
        document.fault(path, "expected a table with model", "write the model under `model`")
        return None
    document.check_keys(value, path, ("model", "parameters", *(("layer_range",) if sliced else ())))
    name = reader.book.refer(document, value["model"], (*path, "model"))
    parameters = read_parameters(document, value.get("parameters"), (*path, "parameters"), reader.method, each=True)
    first, stop = 0, 0
    if sliced:
        bounds = value.get("layer_range")
        numbers = _counts(bounds)
        if not isinstance(bounds, list) or not len(numbers) == len(bounds) == _PAIR or numbers[0] >= numbers[1]:
            mend = "write the first layer, and one more than the last"
            document.fault((*path, "layer_range"), f"no range of layers: {bounds}", mend)
            return None
        first, stop = numbers
    return Source(name=name, first=first, length=stop - first, parameters=parameters) if name else None


def _check_twice(document: Document, names: Sequence[str], path: KeyPath) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        document.fault(path, f"{twice[0]} comes twice", "name each model once")


def _counts(value: JSON) -> list[int]:
    """The whole numbers from 0 in a list."""
    items = value if isinstance(value, list) else []
    return [one for one in items if isinstance(one, int) and not isinstance(one, bool) and one >= 0]
