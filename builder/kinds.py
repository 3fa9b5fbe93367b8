"""The table of stage kinds: recipe revision and the function that does the work. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.stage import Context, Outcome

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of stage.

    Attributes:
        recipe: Revision of what the kind means; raised when the bytes that it would give change.
        function: Dotted path ``module:name`` of a function from Context to Outcome.
        weights: Whether it computes weights from weights alone, so that it can be computed again from its inputs.
        ranks: Whether several processes may share it, as the runner's `processes` says.
        sharded: Whether they may share every weight, too, as its `sharding` says.
    """

    recipe: int
    function: str
    weights: bool = False
    ranks: bool = False
    sharded: bool = False

    def load(self) -> Callable[[Context[Any]], Outcome]:
        """Import the function; only here do torch and its friends come in."""
        module, _, name = self.function.partition(":")
        return cast("Callable[[Context[Any]], Outcome]", getattr(import_module(module), name))


KINDS: Mapping[str, Kind] = {
    "import": Kind(recipe=1, function="builder.stages.imports:import_"),
    "pretrain": Kind(recipe=1, function="builder.stages.pretrain:pretrain", ranks=True),
    "sft": Kind(recipe=1, function="builder.stages.sft:sft", ranks=True, sharded=True),
    "dpo": Kind(recipe=1, function="builder.stages.dpo:dpo", ranks=True),
    "kto": Kind(recipe=1, function="builder.stages.kto:kto"),
    "orpo": Kind(recipe=1, function="builder.stages.orpo:orpo", ranks=True),
    "cpo": Kind(recipe=1, function="builder.stages.cpo:cpo", ranks=True),
    "reward": Kind(recipe=1, function="builder.stages.reward:reward", ranks=True),
    "grpo": Kind(recipe=1, function="builder.stages.grpo:grpo"),
    "rloo": Kind(recipe=1, function="builder.stages.rloo:rloo"),
    "distill": Kind(recipe=1, function="builder.stages.distill:distill"),
    "fold": Kind(recipe=1, function="builder.stages.fold:fold", weights=True),
    "fuse": Kind(recipe=1, function="builder.stages.fuse:fuse", weights=True),
    "blend": Kind(recipe=1, function="builder.stages.blend:blend", weights=True),
    "extract": Kind(recipe=1, function="builder.stages.extract:extract", weights=True),
    "graft": Kind(recipe=1, function="builder.stages.graft:graft", weights=True),
    "cast": Kind(recipe=1, function="builder.stages.cast:cast", weights=True),
    "evaluate": Kind(recipe=1, function="builder.stages.evaluate:evaluate"),
}
