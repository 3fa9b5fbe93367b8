"""What one type of PEFT adapter has to say on itself, and the table of all types."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, cast

import torch

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Effect
    from builder.weights.peft_config import PeftConfig
    from builder.weights.stream import Stored

__all__ = ["METHODS", "REFUSED", "Method", "Subject", "load_float64", "method_of"]

METHODS: Mapping[str, str] = {
    "LORA": "builder.weights.methods.lora:LORA",
}
"""PEFT's name of a type -> where its :class:`Method` is."""

REFUSED: Mapping[str, str] = {
    "ADAPTION_PROMPT": "it puts learnt prompts into attention, so no weight holds it",
    "CARTRIDGE": "it is a learnt prompt in the key and value cache, so no weight holds it",
    "CPT": "it is a learnt prompt, so no weight holds it",
    "MULTITASK_PROMPT_TUNING": "it is a learnt prompt, so no weight holds it",
    "POLY": "it chooses among adapters by the task of each row, so no single weight holds it",
    "PREFIX_TUNING": "it is a learnt prefix of keys and values, so no weight holds it",
    "PROMPT_TUNING": "it is a learnt prompt, so no weight holds it",
    "P_TUNING": "it is a learnt prompt, so no weight holds it",
    "XLORA": "it mixes adapters anew for every token, so no single weight holds it",
}
"""Types that no weight can hold, each with the reason."""


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
        embedding: The module is an embedding.
        conv1d: The module is transformers' Conv1D, whose file has the weight as ``[in, out]``.
    """

    config: PeftConfig
    module: str
    tensors: Mapping[str, Stored]
    shared: Mapping[str, Stored]
    shape: tuple[int, int]
    embedding: bool = False
    conv1d: bool = False

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One type of adapter.

    Attributes:
        leaves: Names that its tensors have within a module.
        indices: Those of them that hold whole numbers.
        effects: What an adapter does to the parameters of one module: ``weight`` or ``bias`` -> effect.
        read: Keys of the configuration that ``effects`` looks at.
        silent: Keys that do not change the result.
        reasons: Key -> why an adapter with it cannot be folded.
        shared: Names of tensors that its modules share.
        features: ``(out, in)`` by the adapter's own tensors, ``None`` where they do not tell.
        on_vectors: Whether it acts on weights of one dimension, such as those of norms.
    """

    leaves: frozenset[str]
    effects: Callable[[Subject], Mapping[str, Effect]]
    indices: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    reasons: Mapping[str, str] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    features: Callable[[Mapping[str, Stored]], tuple[int, int] | None] | None = None
    on_vectors: bool = False


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


def load_float64(stored: Stored, device: torch.device) -> torch.Tensor:
    """A small tensor of an adapter in memory, in float64.

    Raises:
        InvalidError: It holds NaN or an infinity.
        OSError: The file cannot be read.
    """
    values = stored.load().to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise InvalidError(
            f"tensor {stored.info.name!r} holds NaN or an infinity",
            where=str(stored.path),
            mend="train the adapter again; its training went wrong",
        )
    return values.to(device)
