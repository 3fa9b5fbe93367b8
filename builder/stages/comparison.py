"""Two models of one shape, one made from the other: whether they match, where they differ, what can hold that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.weights.architecture import Member, check_configs, check_heads
from builder.weights.dtypes import FLOATS
from builder.weights.family import has_token_rows
from builder.weights.folder import read_model
from builder.weights.quantisation import quantisation
from builder.weights.site import is_conv1d, is_tied
from builder.weights.stream import are_equal
from builder.weights.tied import TOKEN_EMBEDDING
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from builder.stage import Input
    from builder.weights.folder import ModelFolder
    from registry.components import Network

__all__ = ["Comparison", "compare_models", "some"]

_MATRIX = 2
_LISTED = 3  # names in one message
_FACTORED = ("attention", "mlp", "embedding", "head")
_FUSED = ("mlp.experts", "router")  # in memory they are stacks of matrices, or modules that LoRA is not put on
_SAVED = ("norm", "attention.norm", "embedding.norm")
_BARE = {"gpt2": "transformer."}  # families whose files may lack what the module tree has before each name
_MEND = "name a model and one that was made from it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The two models.

    Attributes:
        after: The one that was changed.
        before: The one that it was made from.
        differing: Names of the tensors that differ, by name.
        prefix: What module names have before the names of the files.
        where: For errors.
    """

    after: ModelFolder
    before: ModelFolder
    differing: tuple[str, ...]
    prefix: str
    where: str

    @property
    def network(self) -> Network:
        """Of the tensors, which both have."""
        return self.before.network

    @property
    def architecture(self) -> str:
        """Name of the class that the model was saved from; empty where it is not said."""
        return _architecture(self.before)

    def module(self, name: str) -> str:
        """The module of a tensor, as PEFT names it; the head stands beside what has the prefix."""
        owner = name.rpartition(".")[0]
        return owner if self.network.component_of(name) == "head" else f"{self.prefix}{owner}"

    def is_embedding(self, name: str) -> bool:
        """Whether a matrix is that of an embedding."""
        return self._is_in(name, ("embedding",))

    def is_conv1d(self, name: str) -> bool:
        """Whether a matrix is that of transformers' Conv1D."""
        return is_conv1d(self.before, name.rpartition(".")[0])

    def is_shared(self, name: str) -> bool:
        """Whether a matrix is embedding and head in one."""
        return is_tied(self.before) and self.network.component_of(name) == TOKEN_EMBEDDING

    def is_matrix(self, name: str) -> bool:
        """Whether it is the weight of a module that LoRA is put on."""
        before, after = self.before.tensors[name].info, self.after.tensors[name].info
        plain = len(before.shape) == _MATRIX and name.endswith(".weight") and self._is_factored(name)
        return plain and not self.is_shared(name) and {before.dtype, after.dtype} <= FLOATS

    def is_bias(self, name: str) -> bool:
        """Whether it is the bias beside a matrix."""
        weight = self.before.tensors.get(f"{name.removesuffix('.bias')}.weight")
        beside = weight is not None and len(weight.info.shape) == _MATRIX
        return name.endswith(".bias") and beside and self._is_factored(name)

    def is_vector(self, name: str) -> bool:
        """Whether it is a parameter of a norm, which PEFT saves whole."""
        vector = len(self.before.tensors[name].info.shape) == 1 and name.endswith((".weight", ".bias"))
        return vector and self._is_in(name, _SAVED)

    def counts(self, names: Iterable[str]) -> str:
        """Names in few words: how many of which component."""
        return ", ".join(f"{count.tensors} of {count.component}" for count in self.network.count(names))

    def _is_factored(self, name: str) -> bool:
        return self._is_in(name, _FACTORED) and not self._is_in(name, _FUSED)

    def _is_in(self, name: str, components: Iterable[str]) -> bool:
        place = self.network.places.get(name)
        return place is not None and any(place.is_in(component) for component in components)


def compare_models(changed: Input, against: Input) -> tuple[Comparison, tuple[str, ...]]:
    """Open both models and compare them.

    Returns:
        The models, and notes on settings in which they differ.

    Raises:
        InvalidError: A model is quantised; they have other tensors, shapes or settings; or nothing differs.
        OSError: A file cannot be read.
    """
    where = f"{changed.source} against {against.source}"
    members = []
    for one in (against, changed):
        folder = read_model(one.path)
        member = Member(name=one.name, source=one.source, folder=folder, config=folder.config())
        if quantisation(member.config):
            mend = "dequantise it first in a stage of kind cast, or extract from the 16-bit models"
            raise InvalidError(f"{one.name} is quantised; its numbers cannot be subtracted", where=where, mend=mend)
        members.append(member)
    before, after = (member.folder for member in members)
    check_heads(*members)
    _check_names(before, after, where)
    _check_shapes(before, after, where)
    notes = _check_settings(*members)
    differing = _differing(before, after, changed, against)
    if not differing:
        mend = "name a model that was changed by training, folding or blending"
        raise InvalidError("the two models hold the same numbers", where=where, mend=mend)
    return Comparison(
        after=after, before=before, differing=differing, prefix=_prefix(before, where), where=where
    ), notes


def _check_names(before: ModelFolder, after: ModelFolder, where: str) -> None:
    said = ((before, after, "only the changed model has"), (after, before, "the changed model lacks"))
    for less, more, having in said:
        if names := sorted(more.tensors.keys() - less.tensors.keys()):
            mend = f"{_MEND} with the same layers: an adapter neither adds nor removes modules"
            raise InvalidError(f"{having} {some(names)}", where=where, mend=mend)


def _check_shapes(before: ModelFolder, after: ModelFolder, where: str) -> None:
    shapes = {name: (stored.info.shape, after.tensors[name].info.shape) for name, stored in before.tensors.items()}
    unlike = [name for name, (old, new) in shapes.items() if old != new]
    if not unlike:
        return
    old, new = shapes[unlike[0]]
    vocabulary = all(has_token_rows(before.network, name) for name in unlike)
    mend = f"{_MEND} with the same shapes"
    if vocabulary and old[1:] == new[1:]:
        mend = f"give both one vocabulary first, in a stage of kind graft: {new[0]} words against {old[0]}"
    raise InvalidError(
        f"{len(unlike)} of {len(shapes)} tensors have other shapes, such as {unlike[0]!r}: {list(new)} against "
        f"{list(old)}",
        where=where,
        mend=mend,
    )


def _check_settings(before: Member, after: Member) -> tuple[str, ...]:
    try:
        return check_configs(before, after, free=())
    except InvalidError as error:
        mend = f"{_MEND} with the same settings: an adapter changes none"
        raise InvalidError(error.what, where=error.where, mend=mend) from error


def _differing(before: ModelFolder, after: ModelFolder, changed: Input, against: Input) -> tuple[str, ...]:
    """Names of the tensors that differ; equal digests save the reading."""
    listed = [
        {} if one.artifact is None else {entry.name: (entry.dtype, entry.digest) for entry in one.artifact.tensors}
        for one in (changed, against)
    ]
    alike = {name for name, entry in listed[0].items() if listed[1].get(name) == entry}
    return tuple(
        name
        for name, stored in before.tensors.items()
        if name not in alike and not are_equal(after.tensors[name], stored)
    )


def _prefix(model: ModelFolder, where: str) -> str:
    """What PEFT's names of modules have before those of the files: nothing, but where the files lack it.

    Raises:
        InvalidError: It cannot be told.
    """
    layered = [name for name, place in model.network.places.items() if place.layer is not None]
    architecture = _architecture(model)
    bare = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    if bare or not any(name.startswith(("h.", "layers.")) for name in layered):
        return ""
    family = str(model.config().get("model_type"))
    if family not in _BARE:
        raise InvalidError(
            f"names of its tensors lack what the modules of {architecture or family} have before them",
            where=where,
            mend="save both models again with transformers' `save_pretrained`, and import those",
        )
    return _BARE[family]


def _architecture(model: ModelFolder) -> str:
    named = model.config().get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def some(names: Sequence[str]) -> str:
    """How many names, and the first of them."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}: {', '.join(names[:_LISTED])}{more}"
