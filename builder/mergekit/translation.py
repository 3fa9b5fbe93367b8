"""A mergekit file -> a manifest that makes the same models, or the reason why none can, by line and key. Pure.

mergekit's own words are translated; what it ignores without a word (a misspelt parameter, a filter that never fits) is
a fault here. What is rounded where stays ours: sums in float64, one rounding at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from builder.mergekit.book import RELEASE, Book, OutsideAdapter, Reference
from builder.mergekit.bounds import report_faults
from builder.mergekit.document import Document, read_documents
from builder.mergekit.method import DEFAULTS, METHODS, MISSING, Method
from builder.mergekit.setting import Setting, Slice, flag_of, number_of, read_setting, weighting_of
from builder.mergekit.slices import Meeting, read_meetings, read_parameters
from builder.shapes import nearest, shown
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = ["OutsideAdapter", "Reference", "Translation", "translate"]

_KEYS: Final = (
    "name",
    "merge_method",
    "base_model",
    "models",
    "slices",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "parameters",
)
_DTYPES: Final = ("bfloat16", "float16", "float32")
_EPS: Final = 1e-8
_NOTES: Final = {
    "dtype": "dtype: models are read as they are stored, and not rounded to it before they are blended",
    "base": "tokenizer base: rows of the embedding that no token has are kept, where mergekit drops them",
    "union": "tokenizer union: rows that no token has are kept, where mergekit drops them; new tokens have ids in the "
    "order of the models' digests; tokenizers that together would cut text in another way are refused",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation:
    """What a mergekit file comes to.

    Attributes:
        bases: What ``bases:`` in params.yaml must pin, by name.
        adapters: What ``adapters:`` in the manifest must pin, by name.
        manifest: The manifest but for those pins.
        notes: Where the two tools differ in a way that shows.
    """

    bases: Mapping[str, Reference]
    adapters: Mapping[str, OutsideAdapter]
    manifest: Mapping[str, JSON]
    notes: tuple[str, ...]


def translate(text: str, file: str) -> Translation:
    """Translate a file of mergekit: one merge, or several documents of which later ones name earlier ones.

    Args:
        text: The file's content.
        file: Its path, for faults.

    Raises:
        InvalidError: Every fault: what is no YAML, no mergekit, or cannot be said exactly in a manifest.
    """
    documents = tuple(read_documents(text, file))
    book = Book(documents=documents)
    book.declare()
    merges: dict[str, _Merge] = {}
    for document in documents:
        name = book.stage_of(document)
        merge = _merge(document, book)
        if merge is not None:
            merges[name] = merge
        book.stages[name] = {} if merge is None else _stage(merge, book)
    _check(documents)
    if not documents:
        raise InvalidError("there is no merge in it", where=file, mend="name a file of mergekit")
    bases = {name: reference for reference, name in book.models.items()}
    manifest: dict[str, JSON] = {
        "schema": 1,
        "description": f"Translated from {file.rpartition('/')[2]}, a file of mergekit.",
        "models": {name: name for name in bases},
        "stages": {**book.stages},
        "release": RELEASE,
    }
    report_faults(manifest, {name: one.base for name, one in book.adapters.items()}, merges, documents[0])
    _check(documents)
    return Translation(bases=bases, adapters=book.adapters, manifest=manifest, notes=tuple(book.notes))


def _check(documents: Sequence[Document]) -> None:
    faults = [fault for document in documents for fault in document.reading.faults]
    if faults:
        raise InvalidError.from_faults(faults)


def _merge(document: Document, book: Book) -> _Merge | None:
    """One merge; nothing where there are faults."""
    table = document.table
    document.check_keys(table, (), _KEYS)
    if table.get("chat_template") is not None:
        mend = "leave it out: the result has the template of the base"
        document.fault(("chat_template",), "a chat template cannot be set in a blend", mend)
    method = _method(document)
    if method is None:
        return None
    base = book.refer(document, table["base_model"], ("base_model",)) if table.get("base_model") is not None else ""
    shared = read_parameters(document, table.get("parameters"), ("parameters",), method)
    meetings = read_meetings(document, book, method, base)
    if document.reading.faults or not meetings:
        return None
    return _Merge(document=document, method=method, base=base, meetings=meetings, shared=shared)


def _stage(merge: _Merge, book: Book) -> dict[str, JSON]:
    """Its stage; less of it where there are faults."""
    merge.check_count()
    return {**merge.stage(), **_tokenizer(merge.document, book, merge), **_dtype(merge.document, book)}


def _method(document: Document) -> Method | None:
    name = document.table.get("merge_method")
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    if "merge_method" not in document.table:
        document.fault((), "missing key 'merge_method'", "add it")
    elif name in MISSING:
        document.fault(("merge_method",), f"there is no method {name} here", f"use one of {', '.join(METHODS)}")
    else:
        document.fault(("merge_method",), f"unknown method {shown(name)}", nearest(str(name), METHODS, "methods"))
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Merge:
    """A merge whose parts could be read."""

    document: Document
    method: Method
    base: str
    meetings: Sequence[Meeting]
    shared: Mapping[str, Setting]

    @property
    def name(self) -> str:
        """The method's."""
        return str(self.document.table["merge_method"])

    @property
    def start(self) -> str:
        """The model that the method starts from; empty for none."""
        return self.base if self.method.base != "not" else ""

    @property
    def sliced(self) -> bool:
        """Whether it takes layers."""
        return bool(self.meetings[0].at.count)

    def check_count(self) -> None:
        """As many models as the method takes, with the one that it starts from among them."""
        method = self.method
        if method.base == "must" and not self.base:
            self.document.fault((), f"{self.name} needs a base_model", "add it")
        for one in self.meetings:
            if self.start and self.sliced and self.start not in one.names:
                mend = f"add it with its layer_range: {self.name} starts from it"
                self.document.fault((*one.path, "sources"), "the base_model is not among the sources", mend)
            count = len([name for name in one.names if name != self.start])
            if not method.least <= count <= method.most:
                wanted = str(method.least) if method.least == method.most else f"{method.least} or more"
                noun = "model" if wanted == "1" else "models"
                beside = " beside the base_model" if self.start else ""
                mend = "name as many, or use another method"
                self.document.fault(one.path, f"{self.name} takes {wanted} {noun}{beside}, here are {count}", mend)

    def stage(self) -> dict[str, JSON]:
        """The table of the stage, without its tokens and its dtype."""
        names = dict.fromkeys(name for one in self.meetings for name in one.names)
        models: dict[str, JSON] = {name: self._model(name) for name in names if name != self.start}
        made: dict[str, JSON] = {"kind": "blend", "method": self.name, "models": models}
        if self.base:
            made["against"] = self.base
        if settings := self._settings():
            made["settings"] = settings
        if self.sliced:
            made["layers"] = [{source.name: source.layers for source in one.sources} for one in self.meetings]
        return made

    def place(self, path: KeyPath) -> KeyPath:
        """Where in the document something of the stage was said, by its keys there."""
        match path:
            case ("settings", key, *_):
                ours = {**self.method.all, **self.method.flags, **self.method.single}
                return next((self._path(theirs) for theirs, one in ours.items() if one == key), ())
            case ("models", str(model), *rest):
                key = next((one for one in rest if one in self.method.each.values()), "weight")
                theirs = next((name for name, one in self.method.each.items() if one == key), "")
                sources = [one for meeting in self.meetings for one in meeting.sources if one.name == model]
                own = next((one.parameters[theirs].path for one in sources if theirs in one.parameters), ())
                return own or self._path(theirs)
            case _:
                return ()

    def _model(self, name: str) -> JSON:
        """A model's own numbers; a lone weight as it is."""
        mine = [name in one.names for one in self.meetings]
        said: dict[str, JSON] = {}
        for key, ours in self.method.each.items():
            value = self._weighting(key, model=name, ends=(mine[0], mine[-1]))
            if value != DEFAULTS.get(key):
                said[ours] = value
        return said.get("weight", 1.0) if said.keys() <= {"weight"} else said

    def _settings(self) -> dict[str, JSON]:
        """The numbers of all models."""
        said: dict[str, JSON] = {}
        for key, ours in self.method.all.items():
            value = self._weighting(key, model="", ends=(True, True))
            if value != DEFAULTS.get(key):
                said[ours] = value
        single = {key: self._single(key) for key in (*self.method.flags, *self.method.single)}
        for key, ours in {**self.method.flags, **self.method.single}.items():
            value = single[key]
            if value is not None and ours:
                said[ours] = value if isinstance(value, bool) else number_of(value)
        if single.get("nuslerp_flatten") is False:
            said["row_wise"] = True
            if single["nuslerp_row_wise"]:
                problem = "nuslerp_row_wise without nuslerp_flatten turns columns, which cannot be said here"
                self.document.fault(self._path("nuslerp_row_wise"), problem, "leave it out")
        if single.get("eps") not in {None, _EPS}:
            self.document.fault(self._path("eps"), "eps cannot be set here: it is 1e-8", "leave it out")
        return said

    def _weighting(self, key: str, *, model: str, ends: tuple[bool, bool]) -> JSON:
        """A parameter's number for every tensor, the nearest place that says one first."""
        parts: list[tuple[Slice, Setting]] = []
        for one in self.meetings:
            if model and model not in one.names:
                continue
            own = [source.parameters for source in one.sources if source.name == model]
            said = [scope[key] for scope in (*own, one.parameters, self.shared) if key in scope]
            setting = said[0] if said else Setting(path=one.path, conditions=())
            for lower in said[1:]:
                setting = setting.over(lower)
            if not setting.is_complete and key in DEFAULTS:
                default = read_setting(DEFAULTS[key], one.path, self.document.reading, flags=False)
                setting = setting if default is None else setting.over(default)
            if not setting.is_complete:
                owner = f"{key} of {model}" if model else key
                rest = " for tensors that no filter means" if setting.conditions else ""
                mend = f"add a value of {key} without a filter"
                self.document.fault(setting.path, f"{owner} has no value{rest}", mend)
                return None
            parts.append((one.at, setting))
        shared = not model  # those are looked up by the name in the result, all others by the name in the model
        moved = [(Slice(start=at.start, count=at.count, whole=at.whole), one) for at, one in parts]
        return weighting_of(moved if shared else parts, ends=ends, refuse=self.document.fault)

    def _single(self, key: str) -> bool | float | None:
        """A parameter that has one value for all tensors; ``None`` where nothing is said on it."""
        settings = [one.parameters.get(key, self.shared.get(key)) for one in self.meetings]
        said = [one for one in settings if one is not None]
        if not said:
            return None
        if len(said) < len(settings) or any(one.conditions != said[0].conditions for one in said):
            self.document.fault(said[0].path, "it differs among slices", "write one value for all")
            return None
        return flag_of(said[0], self.document.fault)

    def _path(self, key: str) -> KeyPath:
        """Where a parameter of all models stands."""
        scopes = [*(one.parameters for one in self.meetings), self.shared]
        return next((scope[key].path for scope in scopes if key in scope), ())


def _tokenizer(document: Document, book: Book, merge: _Merge) -> dict[str, JSON]:
    """Whose tokens the result has."""
    path, source = _tokenizer_source(document)
    if source is None:
        return {}
    if isinstance(source, str) and source in {"base", "union"}:
        book.note(_NOTES[source])
        return {"tokenizer": source}
    name = book.refer(document, source, path)
    if name and name == merge.base:
        book.note(_NOTES["base"])
        return {"tokenizer": "base"}
    among = any(name in one.names for one in merge.meetings)
    if name and among and not merge.base and merge.method.base == "not":
        book.note(_NOTES["base"])
        return {"tokenizer": "base", "against": name}
    if name:
        mend = "write base, union or the base_model"
        document.fault(path, "the tokens of another model than the base cannot be taken", mend)
    return {}


def _tokenizer_source(document: Document) -> tuple[KeyPath, JSON]:
    """Where the short or the long form stands, and its source."""
    short, long = document.table.get("tokenizer_source"), document.table.get("tokenizer")
    if long is None:
        return ("tokenizer_source",), short
    path: KeyPath = ("tokenizer",)
    if short is not None:
        document.fault(path, "'tokenizer' together with 'tokenizer_source'", "keep one of them")
    if not isinstance(long, dict):
        document.fault(path, f"expected a table, got {shown(long)}", "write `source: base` or `source: union`")
        return path, None
    document.check_keys(long, path, ("source", "tokens", "pad_to_multiple_of"))
    for key in ("tokens", "pad_to_multiple_of"):
        if long.get(key):
            mend = "leave it out; a stage of kind graft after the blend gives tokens and rows"
            document.fault((*path, key), f"{key} cannot be said in a blend", mend)
    return (*path, "source"), long.get("source", "union")


def _dtype(document: Document, book: Book) -> dict[str, JSON]:
    """What the result is stored as."""
    found: dict[str, str] = {}
    for key in ("dtype", "out_dtype"):
        value = document.table.get(key)
        if value is None:
            continue
        plain = value.removeprefix("torch.") if isinstance(value, str) else ""
        if plain not in _DTYPES:
            document.fault((key,), f"expected {' or '.join(_DTYPES)}, got {shown(value)}", "write one of them")
        found[key] = plain
    if "dtype" in found:
        book.note(_NOTES["dtype"])
    kept = found.get("out_dtype", found.get("dtype"))
    return {"dtype": kept} if kept else {}
