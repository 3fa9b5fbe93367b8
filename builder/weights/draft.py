"""A model in the making: what its folder will hold, before a byte of it is written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder.weights.folder import CONFIG, plain_file
from builder.weights.renamed import Renamed
from registry.canonical import decode, pretty
from registry.components import Network
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.folder import ModelFolder
    from builder.weights.stream import Content
    from registry.canonical import JSON

__all__ = ["Draft"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What is changed about a model, step by step; every step gives a new draft.

    Attributes:
        model: The model that it starts from.
        where: Where that came from, for errors.
        config: The value of ``config.json``.
        contents: Tensor name -> content, of every tensor.
        files: Name -> bytes, of the other files that change.
        changes: Tensor name -> what happened to it: ``added``, ``overridden``, ``moved``; left out where nothing did.
        removed: Names of the model's tensors of which nothing is left.
        renumbered: Whether layers have other numbers than in the model.
        notes: What a reader of the record should know.
    """

    model: ModelFolder
    where: str
    config: Mapping[str, JSON]
    contents: Mapping[str, Content]
    files: Mapping[str, bytes] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    renumbered: bool = False
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> Network:
        """Where the tensors are."""
        return Network.from_tensors(self.contents)

    @classmethod
    def of(cls, model: ModelFolder, *, where: str) -> Draft:
        """A model as it is.

        Raises:
            NotFoundError: It has no configuration.
            InvalidError: That is not a JSON table.
        """
        return cls(model=model, where=where, config=model.config(), contents=model.tensors)

    def put(self, change: str, contents: Mapping[str, Content]) -> Draft:
        """With these tensors, new ones or in place of those of the same name."""
        changes = dict.fromkeys(contents, change)
        return replace(self, contents={**self.contents, **contents}, changes={**self.changes, **changes})

    def drop(self, *names: str) -> Draft:
        """Without these tensors under these names."""
        contents = {name: content for name, content in self.contents.items() if name not in names}
        changes = {name: change for name, change in self.changes.items() if name not in names}
        return replace(self, contents=contents, changes=changes)

    def remove(self, *names: str) -> Draft:
        """Without these tensors; of those of the model that are nowhere else nothing is left."""
        left = self.drop(*names)
        origins = {_origin(self.contents[name]) for name in names} - {_origin(one) for one in left.contents.values()}
        return replace(left, removed=self.removed | (origins & self.model.tensors.keys()))

    def say(self, **keys: JSON) -> Draft:
        """With these keys of the configuration."""
        return replace(self, config={**self.config, **keys})

    def note(self, *notes: str) -> Draft:
        """With these notes."""
        return replace(self, notes=(*self.notes, *notes))

    def file(self, name: str) -> bytes | None:
        """Bytes of another file as it is by now; ``None`` where there is none.

        Raises:
            InvalidError: It is a symlink, a folder or a special file.
        """
        if name in self.files or name not in self.model.others:
            return self.files.get(name)
        return plain_file(self.model.path, name).read_bytes()

    def table(self, name: str) -> Mapping[str, JSON]:
        """The value of a JSON file as it is by now; empty where there is none.

        Raises:
            InvalidError: It holds no JSON table.
        """
        data = self.file(name)
        value = {} if data is None else decode(data, where=f"{self.where}: {name}")
        if not isinstance(value, dict):
            raise InvalidError("it is no table", where=f"{self.where}: {name}", mend="fetch the model again")
        return value

    def write(self, files: Mapping[str, bytes]) -> Draft:
        """With these files, new ones or in place of those of the same name."""
        return replace(self, files={**self.files, **files})

    def changed_files(self) -> dict[str, bytes]:
        """Bytes of all files that change; the configuration is canonical JSON where one of its values changed."""
        changed = dict(self.files)
        if self.config != self.model.config():
            changed[CONFIG] = pretty(self.config)
        return changed

    def find(self, component: str) -> dict[str, Content]:
        """The tensors of a component, by name."""
        places = self.network.places
        return {name: self.contents[name] for name, place in places.items() if place.is_in(component)}


def _origin(content: Content) -> str:
    """The name that a tensor has where it is stored, under whatever name it goes by now."""
    return _origin(content.content) if isinstance(content, Renamed) else content.spec.name
