"""The tables of new adapters, told apart by their type; and why PEFT's other types are not among them."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, get_args

from builder.adapter_types.factors import (
    DeftSettings,
    DeloraSettings,
    GloraSettings,
    GraloraSettings,
    HiraSettings,
    LohaSettings,
    LokrSettings,
    PeanutSettings,
)
from builder.adapter_types.lora import AdaloraSettings, LoraSettings
from builder.adapter_types.prompts import PrefixTuningSettings, PromptTuningSettings
from builder.adapter_types.rotations import BoftSettings, HraSettings, OftSettings, RoadSettings
from builder.adapter_types.shared import (
    FrodSettings,
    PveraSettings,
    RandloraSettings,
    TinyloraSettings,
    UniloraSettings,
    VbloraSettings,
    VeraSettings,
)
from builder.adapter_types.sparse import (
    C3aSettings,
    FourierftSettings,
    MissSettings,
    OsfSettings,
    ShiraSettings,
    SupertuningSettings,
    WaveftSettings,
)
from builder.adapter_types.vectors import BeftSettings, Ia3Settings, LnTuningSettings, TrainableTokensSettings
from builder.tables import Otherwise, Refused

__all__ = ["ADAPTERS", "FINISHED", "UNFOLDED", "UNTRAINED", "AdapterSettings", "LoraSettings"]

_PROMPTS: Final = ("prompt_tuning", "prefix_tuning")

FINISHED: Final = {"adalora": "the ranks that it dropped are gone, and it would drop more"} | dict.fromkeys(
    _PROMPTS, "PEFT opens learnt prompts for reading only"
)
"""Types whose adapters cannot go on training, each with the reason."""

UNFOLDED: Final = dict.fromkeys(_PROMPTS, "it is a learnt prompt, so no weight holds it")
"""Types that a stage trains and none can fold, each with the reason."""

UNTRAINED: Final = {
    "adamss": "which rows it changes is not saved, so its folder does not say what it does",
    "adaption_prompt": "it is for the first Llama alone, and no weight can hold it",
    "bone": "PEFT has it as `type: miss` with `init: bat`",
    "cartridge": "it is learnt by distilling a text that stages do not have",
    "cpt": "it needs the tokens of its prompt in the settings, and no weight can hold it",
    "lily": "it mixes its factors anew for every input, so no weight can hold it",
    "multitask_prompt_tuning": "its rows must say which task they are of",
    "p_tuning": "its encoder is not saved, so a training that was killed could not go on",
    "poly": "its rows must say which task they are of",
    "psoft": "what it turns is not saved, so its folder means something else on another machine",
    "shadow": "it is a second network that runs beside the model",
    "xlora": "it mixes adapters that are trained already",
}
"""PEFT's other types, each with why a stage cannot train one."""

_All: TypeAlias = (
    LoraSettings
    | AdaloraSettings
    | LohaSettings
    | LokrSettings
    | DeloraSettings
    | HiraSettings
    | GraloraSettings
    | GloraSettings
    | DeftSettings
    | PeanutSettings
    | OftSettings
    | BoftSettings
    | HraSettings
    | RoadSettings
    | VeraSettings
    | PveraSettings
    | RandloraSettings
    | VbloraSettings
    | UniloraSettings
    | TinyloraSettings
    | FrodSettings
    | FourierftSettings
    | WaveftSettings
    | C3aSettings
    | MissSettings
    | ShiraSettings
    | SupertuningSettings
    | OsfSettings
    | Ia3Settings
    | LnTuningSettings
    | BeftSettings
    | TrainableTokensSettings
    | PromptTuningSettings
    | PrefixTuningSettings
)

AdapterSettings: TypeAlias = Annotated[
    _All,
    Otherwise("lora"),
    Refused(tuple(UNTRAINED.items()), because="cannot be trained by a stage"),
]

ADAPTERS: Final = {str(table.__dataclass_fields__["type"].default): table for table in get_args(_All)}
"""Every type that a stage trains -> its table, in the order of the manifest's documentation."""
