"""Trainers of ``trl.experimental``, which any version of TRL may change or drop; what they need is asked for here."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["reads_tokens", "trainer_of"]


def trainer_of(kind: str, config: str, trainer: str) -> tuple[Any, Any]:
    """The configuration class and the trainer class of an experimental kind.

    Args:
        kind: Name of its module below ``trl.experimental``.
        config: Name of the configuration class.
        trainer: Name of the trainer class.

    Raises:
        MachineError: The installed TRL has them no longer.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental is said here
            module = import_module(f"trl.experimental.{kind}")
        return getattr(module, config), getattr(module, trainer)
    except (ImportError, AttributeError) as error:
        raise MachineError(
            f"the installed TRL has no trainer for {kind}: {error}",
            where=f"trl.experimental.{kind}",
            mend="install trl 1.16, or train on the preferences with kind dpo",
        ) from error


def reads_tokens(trainer: Any) -> Any:  # noqa: ANN401 - TRL has no types
    """A trainer class that takes rows of tokens as they are, for one that would tokenize texts row by row."""
    return type(trainer.__name__, (trainer,), {"tokenize_row": staticmethod(_as_it_is)})


def _as_it_is(feature: Mapping[str, Any], model: object = None) -> Mapping[str, Any]:  # noqa: ARG001 - TRL's signature
    return feature
