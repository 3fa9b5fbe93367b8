"""LoRA adapters on chosen components: which modules, spelt how, with which configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from registry.components import Network
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from builder.adapter_settings import LoraSettings

__all__ = ["choose_modules", "lora_config", "spell_modules"]

_LAYER = re.compile(r".*?\.[^.]*\.(?P<layer>\d+)\.")  # as PEFT reads `layers_to_transform`


def choose_modules(model: Any, settings: LoraSettings) -> tuple[str, ...]:  # noqa: ANN401 - a transformers model
    """Names of the modules that an adapter goes on.

    Raises:
        InvalidError: The selector matches no matrix, or one that an adapter cannot be put on.
    """
    network = Network.from_modules(model)
    modules = network.module_names(settings.targets)
    places = {name.removesuffix(".weight"): place for name, place in network.places.items()}
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    for module in modules:
        component = places[module].component if module in places else ""
        if component == "head" or (component == "embedding.token" and tied):
            raise InvalidError(
                f"an adapter cannot go on {module}: the trainer multiplies by the head's weight itself",
                where=f"adapter.targets: {settings.targets}",
                mend="leave it out of `targets:`; to train it, train without `adapter:` and name it in the stage's own",
            )
    return modules


def spell_modules(chosen: Collection[str], every: Iterable[str]) -> tuple[list[str], list[int] | None]:
    """The shortest spelling of some modules for an adapter's configuration.

    Args:
        chosen: Whole names of the modules.
        every: Whole names of all modules of the model.

    Returns:
        ``target_modules``, sorted, and ``layers_to_transform``: name endings alone where the choice is every module
        with such an ending; endings within some layers; else whole names.
    """
    names = list(every)
    layers = {_layer(name) for name in chosen}
    endings = _endings(chosen, names)
    if endings is not None:
        return endings, None
    if None not in layers:
        endings = _endings(chosen, [name for name in names if _layer(name) in layers])
        if endings is not None:
            return endings, sorted(layer for layer in layers if layer is not None)
    return sorted(chosen), None


def lora_config(model: Any, modules: Sequence[str], settings: LoraSettings) -> Any:  # noqa: ANN401 - PEFT has no types
    """PEFT's configuration of a new adapter.

    Args:
        model: A transformers model.
        modules: Whole names, from :func:`choose_modules`.
        settings: Rank, scale and the like.
    """
    from peft import LoraConfig  # noqa: PLC0415 - seconds, not needed by the functions above

    targets, layers = spell_modules(modules, (name for name, _ in model.named_modules()))
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=targets,
        layers_to_transform=layers,
        # GPT-2 stores its projections the other way round, in a layer type of its own.
        fan_in_fan_out=any(type(model.get_submodule(name)).__name__ == "Conv1D" for name in modules),
    )


def _layer(name: str) -> int | None:
    found = _LAYER.match(name)
    return int(found["layer"]) if found else None


def _endings(chosen: Collection[str], names: Sequence[str]) -> list[str] | None:
    """For each chosen name its shortest ending that no other name has; ``None`` where a layer's number is needed."""
    endings: set[str] = set()
    others = [name for name in names if name not in chosen]
    for name in chosen:
        if any(name.endswith(f".{ending}") or name == ending for ending in endings):
            continue
        parts = name.split(".")
        tails = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        ending = next(tail for tail in tails if not any(one == tail or one.endswith(f".{tail}") for one in others))
        if any(part.isdecimal() for part in ending.split(".")):
            return None
        endings.add(ending)
    return sorted(endings)
