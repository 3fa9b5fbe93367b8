"""What a LoRA adapter takes over as it is: modules saved whole, biases, rows of tokens. None of them can be summed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.weights.effect import Changed
from builder.weights.lora_folder import LoraFolder, Tokens
from builder.weights.saved import Replaced, Rows
from builder.weights.stream import Checked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.stages.adapted import AdaptedTensor
    from builder.weights.effect import Applied
    from builder.weights.folder import ModelFolder
    from builder.weights.stream import Content

__all__ = ["carry"]

_MATRIX = 2


def carry(tensors: Sequence[AdaptedTensor], model: ModelFolder) -> LoraFolder:
    """An adapter without factors yet.

    Args:
        tensors: What no pair of factors can hold.
        model: The model under the adapters.

    Raises:
        InvalidError: More than one adapter changes one of them, not with weight 1, or PEFT's LoRA has no place for it.
    """
    biases: dict[str, Content] = {}
    tokens: dict[str, Tokens] = {}
    saved: dict[str, Mapping[str, Content]] = {}
    for tensor in tensors:
        applied = _alone(tensor)
        if isinstance(applied.effect, Rows):
            rows = applied.effect
            tokens[tensor.module] = Tokens(indices=rows.tokens, content=Checked(stored=rows.stored))
            continue
        content, leaf = _content(tensor, applied), tensor.name.rpartition(".")[2]
        weight = model.tensors.get(f"{tensor.owner}.weight")
        if leaf == "bias" and weight is not None and len(weight.info.shape) == _MATRIX:
            biases[tensor.module] = content
        else:
            saved[tensor.module] = {**saved.get(tensor.module, _parameters(tensor, model)), leaf: content}
    for module in saved.keys() & biases.keys():
        saved[module] = {**saved[module], "bias": biases.pop(module)}
    return LoraFolder(adapted=(), saved=saved, biases=biases, tokens=tokens)


def _alone(tensor: AdaptedTensor) -> Applied:
    """The one effect on a tensor that cannot be summed."""
    first, applied = tensor.parts[0], tensor.effects[0]
    whole = any(isinstance(one.effect, Replaced | Rows) for one in tensor.effects)
    if not tensor.module or not (whole or len(tensor.stored.info.shape) == 1):
        raise tensor.refused(
            f"{first.name} changes {tensor.name}, which is no matrix of a module of its own: plain LoRA has no place "
            "for that",
            "fold the adapter into the model instead",
        )
    if len(tensor.parts) > 1:
        raise tensor.refused(
            f"{' and '.join(part.name for part in tensor.parts)} change {tensor.name}, not all of them by factors: "
            "no adapter holds the sum",
            f"give all but one of them weight 0 there: [{{value: 1}}, {{on: {tensor.name}, value: 0}}]",
        )
    if applied.scale != 1:
        raise tensor.refused(
            f"{first.name} has weight {applied.scale:g} on {tensor.name}, which it changes without factors: it can be "
            "taken as it is or not at all",
            f"give it weight 1 or 0 there: [{{value: {applied.scale:g}}}, {{on: {tensor.name}, value: 1}}]",
        )
    return applied


def _content(tensor: AdaptedTensor, applied: Applied) -> Content:
    """The tensor as the adapter stores it, or as it makes it, rounded to the model's dtype."""
    if isinstance(applied.effect, Replaced):
        return Checked(stored=applied.effect.stored)
    return Changed(base=tensor.stored, effects=(applied,))


def _parameters(tensor: AdaptedTensor, model: ModelFolder) -> dict[str, Content]:
    """All parameters of its module, as the model has them: what is saved whole must be complete."""
    own = {name: stored for name, stored in model.tensors.items() if name.rpartition(".")[0] == tensor.owner}
    return {name.rpartition(".")[2]: Checked(stored=stored) for name, stored in own.items()}
