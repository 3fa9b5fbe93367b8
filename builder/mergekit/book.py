"""The names and stages of a manifest in the making: what the documents of a mergekit file share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from builder.names import BASE
from builder.shapes import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.mergekit.document import Document
    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = ["RELEASE", "Book", "OutsideAdapter", "Reference"]

RELEASE: Final = "merged"
"""The stage that the last merge becomes."""

_MAX_NAME: Final = 56
_PAIR: Final = 2
_MAX_PATH_BYTES: Final = 4095
_MAX_PART_BYTES: Final = 255


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Reference:
    """A model or an adapter as mergekit names it: a folder or a name on the Hub, maybe with a revision."""

    path: str
    revision: str = ""

    def __str__(self) -> str:
        """As mergekit writes it."""
        return f"{self.path}@{self.revision}" if self.revision else self.path


@dataclass(frozen=True, kw_only=True, slots=True)
class OutsideAdapter:
    """An adapter made elsewhere, and the outside model that it is on."""

    reference: Reference
    base: str


@dataclass(kw_only=True, slots=True)
class Book:
    """What was named so far.

    Attributes:
        documents: The merges.
        models: Outside model -> our name of it.
        adapters: Our name -> the outside adapter.
        stages: Name -> table of a stage.
        notes: What the reader of the translation should know, in order.
    """

    documents: Sequence[Document]
    models: dict[Reference, str] = field(default_factory=dict)
    adapters: dict[str, OutsideAdapter] = field(default_factory=dict)
    stages: dict[str, JSON] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _merges: dict[str, str] = field(default_factory=dict)  # name of a document -> its stage
    _folds: dict[tuple[str, Reference], str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=lambda: {BASE, "records", RELEASE})

    def declare(self) -> None:
        """Take the names of all merges, so that each can refer to any other."""
        named = [document for document in self.documents if "name" in document.table]
        for document in [one for one in self.documents if one not in named][1:]:
            document.fault((), "two merges without a name", "give each but the last one a `name`")
        for document in named:
            if not document.name:
                document.fault(("name",), "a name that is no text", "write a name")
            elif document.name in self._merges:
                document.fault(("name",), f"two merges are called {document.name!r}", "rename one of them")
            else:
                last = document is self.documents[-1] and len(named) == len(self.documents)
                self._merges[document.name] = RELEASE if last else self._fresh(document.name)

    def stage_of(self, document: Document) -> str:
        """What the stage of a merge is called."""
        return self._merges.get(document.name, RELEASE)

    def note(self, text: str) -> None:
        """Keep a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def refer(self, document: Document, value: JSON, path: KeyPath) -> str:
        """Our name of a model, folded with its adapter where it has one; empty where a fault was found."""
        found = _split(document, value, path)
        if found is None:
            return ""
        model, adapter = found
        for one in found:
            if one is not None and _is_too_long(one.path):
                problem = f"a name of {len(one.path)} characters, which is longer than any path"
                document.fault(path, problem, "write organisation/name, or the path of a folder of the repository")
                return ""
        merge = self._merges.get(model.path, "") if not model.revision else ""
        name = merge or self.models.get(model) or self._outside(model)
        if adapter is None:
            return name
        if merge:
            mend = "fold the adapter into the model that it was trained on, before the merge"
            document.fault(path, "an adapter on a merged model: what it was trained on is not said", mend)
            return ""
        return self._folds.get((name, adapter)) or self._fold(name, adapter)

    def _outside(self, model: Reference) -> str:
        self.models[model] = self._fresh(model.path)
        return self.models[model]

    def _fold(self, model: str, adapter: Reference) -> str:
        """The stage in which an adapter is put into an outside model."""
        name = self._fresh(adapter.path)
        self.adapters[name] = OutsideAdapter(reference=adapter, base=model)
        stage = self._fresh(f"{model}-{name}")
        self.stages[stage] = {"kind": "fold", "from": model, "adapters": {name: 1.0}}
        self._folds[model, adapter] = stage
        return stage

    def _fresh(self, wish: str) -> str:
        """A name of ours that is like another one and not taken yet."""
        last = wish.rstrip("/").rpartition("/")[2].lower()
        plain = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:_MAX_NAME].strip("-") or "model"
        plain = plain if plain[0].isalpha() else f"m-{plain}"
        name, number = plain, 2
        while name in self._taken:
            name, number = f"{plain}-{number}", number + 1
        self._taken.add(name)
        return name


def _is_too_long(path: str) -> bool:
    data = path.encode(errors="surrogatepass")
    return len(data) > _MAX_PATH_BYTES or any(len(part) > _MAX_PART_BYTES for part in data.split(b"/"))


def _split(document: Document, value: JSON, path: KeyPath) -> tuple[Reference, Reference | None] | None:
    """Model and adapter of a reference; ``None`` where a fault was found."""
    if isinstance(value, str):
        texts = value.split("+")
        if all(texts) and len(texts) <= _PAIR and all(text.count("@") <= 1 for text in texts):
            model, *adapters = map(_reference, texts)
            return model, adapters[0] if adapters else None
    elif isinstance(value, dict):
        document.check_keys(value, path, ("model", "lora", "override_architecture"))
        if value.get("override_architecture") is not None:
            mend = "leave it out; models of other architectures are refused"
            document.fault((*path, "override_architecture"), "override_architecture cannot be translated", mend)
        inner, adapter = _long(value.get("model")), _long(value.get("lora"))
        if inner is not None and (adapter is not None or value.get("lora") is None):
            return inner, adapter
    mend = "write organisation/name or a folder, with @revision or +adapter after it"
    document.fault(path, f"no model: {shown(value)}", mend)
    return None


def _reference(text: str) -> Reference:
    path, _, revision = text.partition("@")
    return Reference(path=path, revision=revision)


def _long(value: JSON) -> Reference | None:
    """A path with its revision, as a text or as a table."""
    if isinstance(value, str) and value:
        return _reference(value)
    if isinstance(value, dict) and value.keys() <= {"path", "revision"}:
        path, revision = value.get("path"), value.get("revision")
        if isinstance(path, str) and path and (revision is None or isinstance(revision, str)):
            return Reference(path=path, revision=revision or "")
    return None
