"""The selector language: which components, layers and tensors of a network are meant. Grammar only, no network.

Forms, as YAML gives them::

    attention                     a component with all that is in it
    attention.query               a part of it
    model.layers.3.*              a tensor glob, or a whole tensor name
    [attention, mlp]              union
    {components: [attention], layers: "0-7,-1", tensors: ["*.bias"], exclude: attention.norm}

A table means (components or tensors) within the layers, less ``exclude``; without components and tensors it means
everything within the layers. Layers count from 0; negative ones count from the end; ``4--1`` is layer 4 to the last.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from registry.canonical import encode
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.canonical import JSON

__all__ = ["COMPONENTS", "Layers", "Part", "Selector", "is_component", "nearest", "spell_layers"]

COMPONENTS = (
    "embedding",
    "embedding.token",
    "embedding.position",
    "embedding.norm",
    "attention",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.fused",
    "attention.output",
    "attention.norm",
    "mlp",
    "mlp.gate",
    "mlp.up",
    "mlp.fused",
    "mlp.down",
    "mlp.experts",
    "router",
    "norm",
    "norm.attention",
    "norm.mlp",
    "norm.final",
    "head",
    "buffer",
)
"""Every component name, in the order of a forward pass; ``attention`` holds all of ``attention.*``."""

_KEYS = ("components", "layers", "tensors", "exclude")
_GLOB = re.compile(r"[*?\[]")
_TENSOR = re.compile(r".+\.(?:weight|bias)|(?:.+\.)?\d+\..+")
_RANGE = re.compile(r"(-?[0-9]{1,6})(?:-(-?[0-9]{1,6}))?")
_MAX_DEPTH = 8
_FORMS = "a component name, a tensor glob, a list of them, or a table with " + ", ".join(_KEYS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """A set of layers, as inclusive ranges in one order, merged where they touch; empty means every layer."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, value: object, *, where: str) -> Layers:
        """Read ``3``, ``"0-7,-1"`` or a list of those.

        Raises:
            InvalidError: It is neither, or a range runs backwards.
        """
        parts = value if isinstance(value, list | tuple) else [value]
        if not parts:
            raise InvalidError("expected layers, got an empty list", where=where, mend='write them as "0-7,-1"')
        texts = [text.strip() for part in parts for text in _layer_text(part, where).split(",")]
        return cls(ranges=_merge(_range(text, where) for text in texts))

    def resolve(self, count: int, *, where: str) -> frozenset[int]:
        """The layers meant in a network of ``count`` layers, counted from 0.

        Raises:
            InvalidError: A layer is outside the network.
        """
        found: set[int] = set()
        for first, last in self.ranges:
            start, stop = (index + count if index < 0 else index for index in (first, last))
            if not 0 <= start <= stop < count:
                raise InvalidError(
                    f"layers {_spell(first, last)} are not in a network of {count} layers",
                    where=where,
                    mend=f"say layers within {_spell(0, count - 1)}, or from the end within {_spell(-count, -1)}"
                    if count
                    else "leave out `layers`; this network has none",
                )
            found.update(range(start, stop + 1))
        return frozenset(found)

    def __str__(self) -> str:
        """As a manifest says it: ``0-7,-1``."""
        return ",".join(_spell(first, last) for first, last in self.ranges)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """(components or tensors) within layers, less exclude; parts of a selector are united."""

    components: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    layers: Layers = field(default_factory=Layers)
    exclude: Selector | None = None

    def to_json(self) -> dict[str, JSON]:
        """The keys that say something, and no others."""
        table: dict[str, JSON] = {}
        if self.components:
            table["components"] = list(self.components)
        if self.layers.ranges:
            table["layers"] = str(self.layers)
        if self.tensors:
            table["tensors"] = list(self.tensors)
        if self.exclude is not None:
            table["exclude"] = self.exclude.to_json()
        return table


@dataclass(frozen=True, kw_only=True, slots=True)
class Selector:
    """A union of parts in one order, so that one meaning spelt in another order is equal, and has one hash."""

    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, value: object, *, where: str = "selector") -> Selector:
        """Read any of the YAML forms.

        Args:
            value: Text, list or table; a selector is given back as it is.
            where: Key path, for errors.

        Raises:
            InvalidError: Not one of the forms, an unknown key, or an unknown component.
        """
        return value if isinstance(value, Selector) else cls(parts=_union(_parts(value, where, 0)))

    def to_json(self) -> list[JSON]:
        """The normal form: names and globs first, then tables; ``parse`` reads it back to an equal selector."""
        plain = [part for part in self.parts if _is_plain(part)]
        names: list[JSON] = [name for part in plain for name in (*part.components, *part.tensors)]
        return [*names, *(part.to_json() for part in self.parts if not _is_plain(part))]

    def __str__(self) -> str:
        """The normal form in one line."""
        return encode(self.to_json()).decode()


def is_component(text: str) -> bool:
    """Whether a selector's text is meant as a component name, rather than as a tensor name or glob."""
    return text in COMPONENTS or not (_GLOB.search(text) or _TENSOR.fullmatch(text))


def nearest(word: str, words: Iterable[str]) -> str:
    """The word most like this one, those with the same first name preferred; empty where there are no words."""
    pool = list(words)
    root = word.partition(".")[0]
    kin = [one for one in pool if one.partition(".")[0] == root]
    return next(iter(difflib.get_close_matches(word, kin or pool, n=1, cutoff=0.0)), "")


def spell_layers(layers: Iterable[int]) -> str:
    """Layers as ranges, such as ``0-5,8``; empty for none."""
    return str(Layers(ranges=_merge((layer, layer) for layer in layers)))


def _parts(value: object, where: str, depth: int) -> list[Part]:
    if depth > _MAX_DEPTH:
        raise InvalidError(f"selector nested deeper than {_MAX_DEPTH}", where=where, mend="say it in fewer levels")
    if isinstance(value, str):
        return [_named(value, where)]
    if isinstance(value, Mapping):
        return [_table(value, where, depth)]
    if isinstance(value, list | tuple) and value:
        return [part for index, one in enumerate(value) for part in _parts(one, f"{where}[{index}]", depth + 1)]
    shown = "an empty list" if value in ([], ()) else repr(value)
    raise InvalidError(f"expected a selector, got {shown}", where=where, mend=f"write {_FORMS}")


def _table(value: Mapping[object, object], where: str, depth: int) -> Part:
    for key in value:
        if key not in _KEYS:
            raise InvalidError(
                f"unknown key {key!r}",
                where=where,
                mend=f"did you mean {nearest(str(key), _KEYS)}? keys are {', '.join(_KEYS)}",
            )
    if not value:
        raise InvalidError("expected a selector, got an empty table", where=where, mend=f"write {_FORMS}")
    components = _names(value, "components", where)
    tensors = _names(value, "tensors", where)
    for component in components:
        _check_component(component, f"{where}.components")
    exclude = _union(_parts(value["exclude"], f"{where}.exclude", depth + 1)) if "exclude" in value else ()
    return Part(
        components=components,
        tensors=tensors,
        layers=Layers.parse(value["layers"], where=f"{where}.layers") if "layers" in value else Layers(),
        exclude=Selector(parts=exclude) if exclude else None,
    )


def _named(text: str, where: str) -> Part:
    if is_component(text):
        _check_component(text, where)
        return Part(components=(text,))
    return Part(tensors=(text,))


def _names(table: Mapping[object, object], key: str, where: str) -> tuple[str, ...]:
    if key not in table:
        return ()
    value = table[key]
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name for name in names):
        raise InvalidError(
            f"expected a name or a list of names, got {value!r}", where=f"{where}.{key}", mend="write one name or more"
        )
    return tuple(sorted(set(names)))


def _check_component(name: str, where: str) -> None:
    if name not in COMPONENTS:
        raise InvalidError(
            f"unknown component {name!r}",
            where=where,
            mend=f"did you mean {nearest(name, COMPONENTS)}? components are {', '.join(COMPONENTS)}",
        )


def _union(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Join parts that differ in their names only, and put all into one order."""
    ordered = sorted(parts, key=_frame)
    joined = [_join(list(group)) for _, group in groupby(ordered, key=_frame)]
    return tuple(sorted(joined, key=lambda part: encode(part.to_json())))


def _frame(part: Part) -> bytes:
    """What parts must share to be joined: layers, exclude, and whether they name anything at all."""
    names_something = bool(part.components or part.tensors)
    frame = Part(layers=part.layers, exclude=part.exclude)
    return encode([names_something, frame.to_json()])


def _join(parts: list[Part]) -> Part:
    return Part(
        components=tuple(sorted({name for part in parts for name in part.components})),
        tensors=tuple(sorted({name for part in parts for name in part.tensors})),
        layers=parts[0].layers,
        exclude=parts[0].exclude,
    )


def _is_plain(part: Part) -> bool:
    """Whether strings alone can say it: no layers, no exclusion, no tensor name that would read as a component."""
    if part.layers.ranges or part.exclude is not None:
        return False
    return not any(map(is_component, part.tensors))


def _layer_text(value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidError(f"expected layers, got {value!r}", where=where, mend='write them as "0-7,-1"')
    return str(value)


def _range(text: str, where: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise InvalidError(f"{text!r} is no layer and no range of layers", where=where, mend='write them as "0-7,-1"')
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if (first < 0) == (last < 0) and first > last:
        raise InvalidError(
            f"layers {text} run backwards", where=where, mend=f"write {_spell(last, first)}, the lower layer first"
        )
    return first, last


def _merge(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges in one order (from the start, then mixed, then from the end), joined where they overlap or touch."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(set(ranges), key=lambda pair: (pair[0] < 0, pair[1] < 0, pair)):
        if merged and _same_signs(merged[-1], (first, last)) and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def _same_signs(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether four bounds count from the same end: only then is their order known without a network."""
    return len({bound < 0 for bound in (*one, *other)}) == 1


def _spell(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
