"""PEFT's configuration of a new adapter, from the stage's own words: selectors become names, names become PEFT's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from builder.adapter_fit import adapted_modules, check_weightings
from builder.adapter_types.lora import AdaloraSettings
from builder.adapter_types.table import OnMatrices, Peft
from builder.adapter_types.vectors import Ia3Settings, TrainableTokensSettings
from builder.shapes import Number
from builder.stages.module_names import spell_endings, spell_modules
from builder.weighting import Weighting
from registry.components import Network
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.adapter_settings import AdapterSettings

__all__ = ["adapter_config", "peft_marks"]

_MANY_STEPS = 10**9  # until the number of steps is known


def adapter_config(model: Any, tokenizer: Any, settings: AdapterSettings) -> Any:  # noqa: ANN401 - no types to be had
    """PEFT's configuration of a new adapter.

    Args:
        model: A transformers model.
        tokenizer: Its tokenizer, for types that name tokens.
        settings: The stage's ``adapter`` table.

    Raises:
        InvalidError: A selector matches nothing that the type goes on, or a setting does not go with a shape.
        MachineError: The installed PEFT does not know the type, or one of its settings.
    """
    config_class = _config_class(settings)
    known = config_class.__dataclass_fields__
    network = _network(model)
    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    head = model.get_output_embeddings()  # a model that scores has none
    tied = head is not None and model.get_input_embeddings().weight is head.weight
    modules = adapted_modules(network, settings, tied=tied, transposed=transposed)
    names = [name for name, _ in model.named_modules()]
    said = _plain(settings) | dict(settings.told()) | _special(model, tokenizer, settings)
    if modules:
        said |= _places(modules, names, layers="layers_to_transform" in known)
    said |= _patterns(network, settings, modules)
    if isinstance(settings, Ia3Settings):
        said |= _scaled_inputs(network, settings, modules, names)
    if "fan_in_fan_out" in known:
        said["fan_in_fan_out"] = any(type(model.get_submodule(name)).__name__ == "Conv1D" for name in modules)
    if unknown := sorted(said.keys() - known.keys()):
        raise _too_old(settings, f"{unknown[0]} of {settings.type} adapters")
    return config_class(task_type="CAUSAL_LM", **said)


def _network(model: Any) -> Network:  # noqa: ANN401 - transformers has no types
    """The network with the shapes of its weights as the layers see them; in few bits they lie packed."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, module in model.named_modules():
        if f"{name}.weight" in shapes and hasattr(module, "in_features") and hasattr(module, "out_features"):
            shapes[f"{name}.weight"] = module.out_features, module.in_features
    return Network.from_shapes(shapes)


def _config_class(settings: AdapterSettings) -> Any:  # noqa: ANN401 - PEFT has no types
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: PLC0415 - seconds, not needed by the functions below

    found = {str(getattr(one, "value", one)): table for one, table in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if settings.peft_type not in found:
        raise _too_old(settings, f"{settings.type} adapters")
    return found[settings.peft_type]


def _too_old(settings: AdapterSettings, what: str) -> MachineError:
    from peft import __version__  # noqa: PLC0415

    return MachineError(
        f"the PEFT that is installed, {__version__}, does not know {what}",
        where=f"adapter.type: {settings.type}",
        mend="install peft 0.21.2 or later, or choose another type",
    )


def peft_marks(settings: AdapterSettings) -> Mapping[str, tuple[Peft, bool]]:
    """Attribute -> what it is in PEFT's configuration, and whether it is a whole number."""
    found: dict[str, tuple[Peft, bool]] = {}
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        if get_origin(hint) is not Annotated:  # a class variable
            continue
        marks = get_args(hint)[1:]
        peft = next((one for one in marks if isinstance(one, Peft)), Peft(name))
        found[name] = peft, any(isinstance(one, Number) and one.integer for one in marks)
    return found


def _plain(settings: AdapterSettings) -> dict[str, Any]:
    """What is the same for every module, under PEFT's names."""
    found = {mark.key: getattr(settings, name) for name, (mark, _) in peft_marks(settings).items() if mark.key}
    return {key: value for key, value in found.items() if not isinstance(value, Weighting)}


def _patterns(network: Network, settings: AdapterSettings, modules: tuple[str, ...]) -> dict[str, Any]:
    """What may differ from module to module: the commonest value, and a table of the others."""
    numbers, marks = check_weightings(network, settings, modules), peft_marks(settings)
    found: dict[str, Any] = {}
    for name, by_module in numbers.items():
        mark, whole = marks[name]
        values = {module: round(number) if whole else number for module, number in by_module.items()}
        common = Counter(values.values()).most_common(1)[0][0]
        found[mark.key] = common
        found[mark.patterns] = {
            ending: value
            for value in sorted(set(values.values()) - {common})
            for ending in spell_endings([one for one in values if values[one] == value], modules)
        }
    return found


def _places(modules: Sequence[str], names: Sequence[str], *, layers: bool) -> dict[str, Any]:
    """The modules, by endings and layers where the type can be told layers."""
    if not layers:
        return {"target_modules": spell_endings(modules, names)}
    targets, chosen = spell_modules(modules, names)
    return {"target_modules": targets, "layers_to_transform": chosen}


def _scaled_inputs(
    network: Network, settings: Ia3Settings, modules: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """IA3's modules in two parts, spelt so that PEFT finds the second among the first."""
    try:
        chosen = network.module_names(settings.scale_inputs)
    except InvalidError as error:
        raise InvalidError(error.what, where="adapter.scale_inputs", mend=error.mend) from error
    inputs = spell_endings([one for one in modules if one in chosen], names)
    outputs = spell_endings([one for one in modules if one not in chosen], names)
    return {"target_modules": sorted({*inputs, *outputs}), "feedforward_modules": inputs}


def _special(model: Any, tokenizer: Any, settings: AdapterSettings) -> dict[str, Any]:  # noqa: ANN401 - no types
    """What only one type needs."""
    if isinstance(settings, TrainableTokensSettings):
        return {"token_indices": _token_ids(tokenizer, settings.tokens)}
    if isinstance(settings, AdaloraSettings):
        return {"total_step": _MANY_STEPS}
    if isinstance(settings, OnMatrices):
        return {}
    config = model.config.get_text_config()
    return (
        {"num_layers": config.num_hidden_layers, "token_dim": config.hidden_size}
        if settings.type.endswith("_tuning") and settings.type != "ln_tuning"
        else {}
    )


def _token_ids(tokenizer: Any, tokens: Sequence[str]) -> list[int]:  # noqa: ANN401 - transformers has no types
    """Numbers of tokens that are in the vocabulary.

    Raises:
        InvalidError: One is not.
    """
    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        if token not in vocabulary:
            raise InvalidError(
                f"the tokenizer has no token {token!r}",
                where="adapter.tokens",
                mend="spell it as the vocabulary does, or add it first with a graft stage",
            )
    return sorted({int(vocabulary[token]) for token in tokens})
