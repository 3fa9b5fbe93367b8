"""The tables of the training stages: what each starts from, learns from and may be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

from builder.adapter_settings import LoraSettings
from builder.compound import Either
from builder.names import Name
from builder.settings import NetworkSettings, TokenizerSettings
from builder.tables import Key, Rules
from builder.train_settings import DpoTraining, PretrainTraining, SftTraining
from registry.selector import Selector

__all__ = ["DpoStage", "PretrainStage", "SftStage", "TrainStage"]

Start: TypeAlias = Annotated[Name, Key("What to start from: `base`, a stage or an adapter.", name="from", own=True)]
NewAdapter: TypeAlias = Annotated[
    LoraSettings | None, Key("Train a new adapter; absent: train what `from` gives, an adapter or a model.")
]
Targets: TypeAlias = Annotated[
    Selector | None, Key("Without an adapter: the weights of the model to train; absent: all of them.", own=True)
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainStage:
    """Makes a small model and its tokenizer from text."""

    kind: Annotated[Literal["pretrain"], Key("Kind of the stage.", required=True, own=True)] = "pretrain"
    data: Annotated[Name, Key("A data set of texts.", own=True)]
    network: Annotated[NetworkSettings, Key("The network.")]
    tokenizer: Annotated[TokenizerSettings, Key("The tokenizer.")] = field(default_factory=TokenizerSettings)
    train: Annotated[PretrainTraining, Key("How to train.")] = field(default_factory=PretrainTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("data", self.data)]


_ADAPTER_OR_TARGETS = Rules(
    either=(Either(groups=(("adapter",), ("targets",)), mend="move `targets` into `adapter`"),),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SftStage:
    """Supervised fine-tuning on messages or text."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("messages", "text")
    SEQUENCES: ClassVar[int] = 1

    kind: Annotated[Literal["sft"], Key("Kind of the stage.", required=True, own=True)] = "sft"
    from_: Start
    data: Annotated[Name, Key("A data set of messages or texts.", own=True)]
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[SftTraining, Key("How to train.")] = field(default_factory=SftTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), ("data", self.data)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoStage:
    """Direct preference optimisation; the reference is what `from` gives."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("preference",)
    SEQUENCES: ClassVar[int] = 2

    kind: Annotated[Literal["dpo"], Key("Kind of the stage.", required=True, own=True)] = "dpo"
    from_: Start
    data: Annotated[Name, Key("A data set of preferences.", own=True)]
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[DpoTraining, Key("How to train.")] = field(default_factory=DpoTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), ("data", self.data)]


TrainStage: TypeAlias = SftStage | DpoStage
"""Those that train what is there, under `from:`; each says which formats of data it learns from, and how many
sequences a row of it has."""
