"""Whether a new adapter can go on a network, by the names and shapes of its tensors alone. Pure; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.adapter_types.prompts import PrefixTuningSettings, PromptTuningSettings
from builder.adapter_types.table import OnMatrices
from builder.adapter_types.vectors import LnTuningSettings, TrainableTokensSettings
from builder.weighting import Weighting
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.adapter_settings import AdapterSettings
    from registry.components import Network

__all__ = ["adapted_modules", "check_weightings"]

_ON_EMBEDDINGS = frozenset({"lora", "hira", "oft", "tinylora"})
_WHERE = "adapter"


def adapted_modules(network: Network, settings: AdapterSettings, *, tied: bool, transposed: bool) -> tuple[str, ...]:
    """Names of the modules that an adapter goes on, each of which it fits.

    Args:
        network: The model, with shapes.
        settings: The stage's ``adapter`` table.
        tied: Whether the head is the token embedding.
        transposed: Whether weights inside the layers lie as ``[in, out]``, as GPT-2's do.

    Raises:
        InvalidError: A selector matches nothing that the type goes on, or a setting does not go with a shape.
    """
    match settings:
        case PromptTuningSettings() | PrefixTuningSettings():
            return ()
        case TrainableTokensSettings():
            return _embedding(network)
        case LnTuningSettings():
            return _norms(network, settings)
        case OnMatrices():
            modules = _matrices(network, settings, tied=tied)
            for module in modules:
                _check_shape(network, settings, module, transposed=transposed)
            return modules


def _matrices(network: Network, settings: OnMatrices, *, tied: bool) -> tuple[str, ...]:
    where = f"{_WHERE}.targets: {settings.targets}"
    try:
        modules = network.module_names(settings.targets)
    except InvalidError as error:
        raise InvalidError(error.what, where=where, mend=error.mend) from error
    for module in modules:
        component = network.component_of(f"{module}.weight")
        if component == "head" or (component == "embedding.token" and tied):
            raise InvalidError(
                f"an adapter cannot go on {module}: the trainer multiplies by the head's weight itself",
                where=where,
                mend="leave it out of `targets:`; to train it, train without `adapter:` and name it in the stage's own",
            )
        if component.partition(".")[0] == "embedding" and settings.type not in _ON_EMBEDDINGS:
            raise InvalidError(
                f"PEFT puts no {settings.type} adapter on {module}, an embedding",
                where=where,
                mend=f"leave it out, or use {' or '.join(sorted(_ON_EMBEDDINGS))}",
            )
    return modules


def _check_shape(network: Network, settings: OnMatrices, module: str, *, transposed: bool) -> None:
    name = f"{module}.weight"
    rows, columns = network.shapes[name][:2]
    inside = name in network.places and network.places[name].layer is not None
    if transposed and inside:
        rows, columns = columns, rows
    key, problem = settings.unfit(rows, columns)
    if problem:
        raise InvalidError(
            f"it does not go with {module}, which is [{rows}, {columns}]: {problem}",
            where=f"{_WHERE}.{key}",
            mend=f"write another `{key}:`, or leave that weight out of `targets:`",
        )
    if transposed and inside and not settings.CONV1D:
        raise InvalidError(
            f"PEFT puts no {settings.type} adapter on {module}, a layer of GPT-2's own kind",
            where=f"{_WHERE}.type",
            mend="use lora, or another type that says so in `varietal matrix`",
        )


def _norms(network: Network, settings: LnTuningSettings) -> tuple[str, ...]:
    where = f"{_WHERE}.targets: {settings.targets}"
    try:
        names = network.select(settings.targets)
    except InvalidError as error:
        raise InvalidError(error.what, where=where, mend=error.mend) from error
    modules = {name.rpartition(".")[0]: None for name in names}
    whole = [name for name in names if len(network.shapes[name]) != 1]
    if whole:
        raise InvalidError(
            f"{whole[0]} is no vector, and ln_tuning holds norms", where=where, mend="select norm, or parts of it"
        )
    return tuple(modules)


def _embedding(network: Network) -> tuple[str, ...]:
    found = [name for name in network.names if network.component_of(name) == "embedding.token"]
    if len(found) != 1:
        raise InvalidError(
            f"the network has {len(found)} token embeddings that are known, expected one",
            where=f"{_WHERE}.type",
            mend="train the embedding itself, without `adapter:`",
        )
    return (found[0].removesuffix(".weight"),)


def check_weightings(
    network: Network, settings: AdapterSettings, modules: tuple[str, ...]
) -> Mapping[str, Mapping[str, float]]:
    """What each setting that may differ from weight to weight is for each module.

    Returns:
        Attribute of the settings -> module -> number.

    Raises:
        InvalidError: A selector in one matches nothing, or no rule of it means a module.
    """
    found: dict[str, Mapping[str, float]] = {}
    for key in settings.__dataclass_fields__:
        weighting = getattr(settings, key)
        if not isinstance(weighting, Weighting):
            continue
        try:
            numbers = weighting.resolve(network)
        except InvalidError as error:
            raise InvalidError(error.what, where=f"{_WHERE}.{key}", mend=error.mend) from error
        found[key] = {module: numbers[f"{module}.weight"] for module in modules}
        if left := [module for module, number in found[key].items() if not number]:
            raise InvalidError(
                f"no entry means {left[0]}, which gets the adapter",
                where=f"{_WHERE}.{key}",
                mend="write a first entry with `value` alone: it means all that no later one does",
            )
    return found
