"""What one type of PEFT adapter has to say on itself, and the table of all types."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

import torch

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Effect
    from builder.weights.peft_config import PeftConfig
    from builder.weights.stream import Stored

__all__ = ["METHODS", "REFUSED", "Method", "Stack", "Subject", "load_float64", "load_indices", "method_of"]

METHODS: Mapping[str, str] = {
    "ADALORA": "builder.weights.methods.adalora:ADALORA",
    "BEFT": "builder.weights.methods.bias:BEFT",
    "BOFT": "builder.weights.methods.orthogonal:BOFT",
    "C3A": "builder.weights.methods.circulant:C3A",
    "DEFT": "builder.weights.methods.weight_aware:DEFT",
    "DELORA": "builder.weights.methods.delora:DELORA",
    "FOURIERFT": "builder.weights.methods.fourier:FOURIERFT",
    "FROD": "builder.weights.methods.joint_basis:FROD",
    "GLORA": "builder.weights.methods.glora:GLORA",
    "GRALORA": "builder.weights.methods.granular:GRALORA",
    "HIRA": "builder.weights.methods.hira:HIRA",
    "HRA": "builder.weights.methods.householder:HRA",
    "IA3": "builder.weights.methods.ia3:IA3",
    "LOHA": "builder.weights.methods.hadamard:LOHA",
    "LOKR": "builder.weights.methods.kronecker:LOKR",
    "LN_TUNING": "builder.weights.methods.ln_tuning:LN_TUNING",
    "LORA": "builder.weights.methods.lora:LORA",
    "MISS": "builder.weights.methods.shards:MISS",
    "OFT": "builder.weights.methods.orthogonal:OFT",
    "OSF": "builder.weights.methods.subspace:OSF",
    "PEANUT": "builder.weights.methods.weight_aware:PEANUT",
    "PVERA": "builder.weights.methods.vera:PVERA",
    "RANDLORA": "builder.weights.methods.random_bases:RANDLORA",
    "ROAD": "builder.weights.methods.road:ROAD",
    "SHIRA": "builder.weights.methods.sparse:SHIRA",
    "SUPERTUNING": "builder.weights.methods.sparse:SUPERTUNING",
    "TINYLORA": "builder.weights.methods.tiny_core:TINYLORA",
    "TRAINABLE_TOKENS": "builder.weights.methods.trainable_tokens:TRAINABLE_TOKENS",
    "UNILORA": "builder.weights.methods.vector_bank:UNILORA",
    "VBLORA": "builder.weights.methods.vector_bank:VBLORA",
    "VERA": "builder.weights.methods.vera:VERA",
    "WAVEFT": "builder.weights.methods.wavelet:WAVEFT",
}
"""PEFT's name of a type -> where its :class:`Method` is."""

REFUSED: Mapping[str, str] = {
    "ADAMSS": (
        "which rows each of its parts changes is not saved; PEFT finds them again by k-means on the base, in float32 "
        "and as rounded to the dtype that it loads the base in"
    ),
    "ADAPTION_PROMPT": "it puts learnt prompts into attention, so no weight holds it",
    "CARTRIDGE": "it is a learnt prompt in the key and value cache, so no weight holds it",
    "CPT": "it is a learnt prompt, so no weight holds it",
    "LILY": "it mixes its factors anew for every input, so no single weight holds it",
    "MULTITASK_PROMPT_TUNING": "it is a learnt prompt, so no weight holds it",
    "POLY": "it chooses among adapters by the task of each row, so no single weight holds it",
    "PREFIX_TUNING": "it is a learnt prefix of keys and values, so no weight holds it",
    "PROMPT_TUNING": "it is a learnt prompt, so no weight holds it",
    "PSOFT": (
        "the factors that it turns are not saved; PEFT takes singular vectors of the base again when it loads, "
        "and their signs, which it depends on, are not the same everywhere"
    ),
    "P_TUNING": "it is a learnt prompt, so no weight holds it",
    "SHADOW": "it is a second network that runs beside the model, so no weight holds it",
    "XLORA": "it mixes adapters anew for every token, so no single weight holds it",
}
"""Types that cannot be folded, each with the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One module with an adapter on it.

    Attributes:
        config: The adapter's configuration.
        module: Name of the module, as PEFT has it.
        tensors: Leaf -> tensor of the adapter, such as ``lora_A.weight``.
        shared: Name -> tensor that all modules of the adapter share, such as ``vera_A``.
        shape: ``(out, in)`` of the weight, as the module sees it; an embedding is ``(width, words)``, a vector
            ``(1, length)``.
        weight: The module's weight, where it lies.
        bias: Its bias; ``None`` where it has none.
        largest: The largest ``out`` and the largest ``in`` of all modules that the adapter is on.
        embedding: The module is an embedding.
        conv1d: The module is transformers' Conv1D, whose file has the weight as ``[in, out]``.
        index: Place of the module in the order of the model's code, where the method has an ``order``; else 0.
        count: How many modules the adapter is on.
    """

    config: PeftConfig
    module: str
    tensors: Mapping[str, Stored]
    shared: Mapping[str, Stored]
    shape: tuple[int, int]
    weight: Stored
    bias: Stored | None = None
    largest: tuple[int, int] = (0, 0)
    embedding: bool = False
    conv1d: bool = False
    index: int = 0
    count: int = 1

    def stored(self, leaf: str, *shape: int) -> Stored:
        """A tensor that must be there.

        Args:
            leaf: Its name within the module.
            shape: What its shape must be; without it any will do.

        Raises:
            InvalidError: It is missing, or has another shape.
        """
        found = self.tensors.get(leaf)
        if found is None:
            there = min(self.tensors)
            raise self.refused(there, f"has no {leaf} beside it", "save the adapter again; it is incomplete")
        if shape and found.info.shape != shape:
            problem = f"is {list(found.info.shape)}, {self.config.type} on {self.module} needs {list(shape)}"
            raise self.refused(leaf, problem, "fold it into the model that it was trained on")
        return found

    def only(self, *leaves: str) -> None:
        """Refuse tensors that the configuration leaves no room for.

        Args:
            leaves: All that the module may have.

        Raises:
            InvalidError: It has another one.
        """
        if more := sorted(self.tensors.keys() - set(leaves)):
            problem = f"has no place in a {self.config.type} adapter of this configuration"
            raise self.refused(more[0], problem, "save weights and configuration together")

    def common(self, name: str, *shape: int) -> Stored:
        """A shared tensor that must be there.

        Raises:
            InvalidError: It is missing, or has another shape.
        """
        found = self.shared.get(name)
        if found is None:
            mend = f"save the adapter again, with {name} in it"
            raise self.config.refused(f"the adapter has no {name}, which all its modules share", mend)
        if shape and found.info.shape != shape:
            problem = f"{name} is {list(found.info.shape)}, {self.module} needs {list(shape)}"
            raise self.config.refused(problem, "fold it into the model that it was trained on")
        return found

    def refused(self, leaf: str, problem: str, mend: str) -> InvalidError:
        """An error on one of the adapter's tensors."""
        found = self.tensors[leaf]
        return InvalidError(f"tensor {found.info.name!r} {problem}", where=str(found.path), mend=mend)


class Stack(Protocol):
    """What an adapter does to stacked matrices, such as those of experts."""

    def whole(self, *, transposed: bool) -> Effect:
        """The effect on the whole stack.

        Args:
            transposed: Whether it is stored as ``[experts, in, out]``; the effect then sees ``[out, experts * in]``,
                else ``[experts * out, in]``.
        """
        ...

    def part(self, expert: int, rows: slice) -> Effect:
        """The effect on rows of one matrix, ``[rows, in]``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One type of adapter.

    Attributes:
        leaves: Names that its tensors have within a module; ``#`` stands for a number.
        indices: Those of them that hold whole numbers.
        effects: What an adapter does to the parameters of one module: ``weight`` or ``bias`` -> effect.
        read: Keys of the configuration that ``effects`` looks at.
        silent: Keys that do not change the result.
        reasons: Key -> why an adapter with it cannot be folded.
        needed: Key -> why an adapter without it cannot be folded.
        shared: Names of tensors that its modules share, up to the first dot.
        order: Module -> its place in the order of the model's code, by the configuration and the tensors of all
            modules; for types whose modules share tensors by that order.
        features: ``(out, in)`` by the adapter's own tensors, ``None`` where they do not tell.
        on_vectors: Whether it acts on weights of one dimension, such as those of norms.
        on_embeddings: Whether PEFT puts it on embeddings.
        on_conv1d: Whether PEFT puts it on transformers' Conv1D.
        prunes: Whether some of its tensors may hold nothing, such as factors that lost all their ranks.
        reshaped: Keys of the configuration that give its tensors other shapes, so that ``features`` cannot tell.
        saved: Words in the names of whole parameters that it saves, such as ``ln_tuning_layers``.
        stack: What an adapter does to a parameter of so many stacked matrices; the subject is one of them.
        alike: Whether an adapter does to the embedding what it does to the head, where both are one tensor.
        decomposes: Whether it takes the weight apart, as into singular vectors, so that even of 16-bit results a last
            bit may be another one on another machine.
    """

    leaves: frozenset[str] = frozenset()
    effects: Callable[[Subject], Mapping[str, Effect]] = lambda _subject: {}
    indices: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    reasons: Mapping[str, str] = field(default_factory=dict)
    needed: Mapping[str, str] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    order: Callable[[PeftConfig, Mapping[str, Mapping[str, Stored]]], Mapping[str, int]] | None = None
    features: Callable[[Mapping[str, Stored]], tuple[int, int] | None] | None = None
    on_vectors: bool = False
    on_embeddings: bool = True
    on_conv1d: bool = True
    prunes: bool = False
    reshaped: frozenset[str] = frozenset()
    saved: frozenset[str] = frozenset()
    stack: Callable[[Subject, int], Stack] | None = None
    alike: Callable[[Subject, Subject], bool] | None = None
    decomposes: bool = False


def method_of(config: PeftConfig) -> Method:
    """The method of a configuration's type; only its file is loaded.

    Raises:
        InvalidError: The type cannot be folded, or nobody here knows it.
    """
    if config.type in REFUSED:
        mend = "serve it beside its model with PEFT"
        raise config.refused(f"adapters of type {config.type} cannot be folded: {REFUSED[config.type]}", mend)
    if config.type not in METHODS:
        raise config.refused(f"adapters of type {config.type} are not known", f"fold one of {', '.join(METHODS)}")
    module, _, name = METHODS[config.type].partition(":")
    return cast("Method", getattr(import_module(module), name))


def load_float64(
    stored: Stored, device: torch.device, rows: slice | None = None, columns: slice = slice(None)
) -> torch.Tensor:
    """A small tensor of an adapter in memory, in float64.

    Args:
        stored: The tensor.
        device: Where it shall be.
        rows: Which rows of a matrix; without it all that there is.
        columns: Which of its columns, where rows are chosen.

    Raises:
        InvalidError: It holds NaN or an infinity.
        OSError: The file cannot be read.
    """
    values = stored.load() if rows is None else stored.part(rows).load()[:, columns]
    values = values.to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise InvalidError(
            f"tensor {stored.info.name!r} holds NaN or an infinity",
            where=str(stored.path),
            mend="train the adapter again; its training went wrong",
        )
    return values.to(device)


def load_indices(stored: Stored, *counts: int) -> torch.Tensor:
    """Whole numbers of an adapter in memory, in int64, on the CPU.

    Args:
        stored: Any dtype; on some systems PEFT saves whole numbers as floats.
        counts: They must lie from 0 to below it; one for all, or one for each row.

    Raises:
        InvalidError: One of them is not whole, or lies elsewhere.
        OSError: The file cannot be read.
    """
    found = stored.load()
    values = found.to(torch.int64)
    limits = torch.tensor(counts).view(-1, *[1] * (values.dim() - 1))
    if not torch.equal(values.to(found.dtype), found) or bool(((values < 0) | (values >= limits)).any()):
        below = " and ".join(map(str, counts))
        raise InvalidError(
            f"tensor {stored.info.name!r} holds other than whole numbers from 0 to below {below}",
            where=str(stored.path),
            mend="save the adapter again, and fold it into the model that it was trained on",
        )
    return values
