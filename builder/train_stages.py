"""The tables of the training stages: what each starts from, learns from and may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

from builder.adapter_settings import AdapterSettings
from builder.compound import Either
from builder.names import Label, Name
from builder.online_settings import DistillTraining, GrpoTraining, RlooTraining
from builder.reward_settings import Reward, RewardModel
from builder.settings import NetworkSettings, TokenizerSettings
from builder.tables import Filled, Key, Rules
from builder.train_data import EvaluationSetting, Mixture, data_references
from builder.train_settings import (
    CpoTraining,
    DpoTraining,
    KtoTraining,
    OrpoTraining,
    PretrainTraining,
    RewardTraining,
    SftTraining,
)
from registry.selector import Selector

__all__ = [
    "CpoStage",
    "DistillStage",
    "DpoStage",
    "GrpoStage",
    "KtoStage",
    "OrpoStage",
    "PretrainStage",
    "RewardStage",
    "RlooStage",
    "SftStage",
    "TrainStage",
]

Start: TypeAlias = Annotated[Name, Key("What to start from: `base`, a stage or an adapter.", name="from", own=True)]
NewAdapter: TypeAlias = Annotated[
    AdapterSettings | None, Key("Train a new adapter; absent: train what `from` gives, an adapter or a model.")
]
Targets: TypeAlias = Annotated[
    Selector | None, Key("Without an adapter: the weights of the model to train; absent: all of them.", own=True)
]


_ONE_OF_TWO = Either(groups=(("adapter",), ("targets",)), mend="move `targets` into `adapter`")
_ADAPTER_OR_TARGETS = Rules(either=(_ONE_OF_TWO,))
_NEW_OR_NOT = Either(
    groups=(("from", "adapter", "targets"), ("network", "tokenizer")),
    mend="keep `from`, to go on training what it gives; or `network` and `tokenizer`, to make a new model",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainStage:
    """Makes a small model and its tokenizer from text, or goes on training a model on more of it."""

    RULES: ClassVar[Rules] = Rules(either=(_ONE_OF_TWO, _NEW_OR_NOT))
    FORMATS: ClassVar[tuple[str, ...]] = ("text",)
    SEQUENCES: ClassVar[int] = 1

    kind: Annotated[Literal["pretrain"], Key("Kind of the stage.", required=True, own=True)] = "pretrain"
    from_: Annotated[
        Name,
        Key("What to go on from: `base`, a stage or an adapter; absent: a new model is made.", name="from", own=True),
    ] = ""
    data: Mixture
    evaluation: EvaluationSetting = None
    network: Annotated[NetworkSettings | None, Key("The new network; needed without `from`.")] = None
    tokenizer: Annotated[TokenizerSettings, Key("Its tokenizer.")] = field(default_factory=TokenizerSettings)
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[PretrainTraining, Key("How to train.")] = field(default_factory=PretrainTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [*([("from", self.from_)] if self.from_ else []), *data_references(self.data, self.evaluation)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SftStage:
    """Supervised fine-tuning on messages or text."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("messages", "completion", "text")
    SEQUENCES: ClassVar[int] = 1

    kind: Annotated[Literal["sft"], Key("Kind of the stage.", required=True, own=True)] = "sft"
    from_: Start
    data: Mixture
    evaluation: EvaluationSetting = None
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[SftTraining, Key("How to train.")] = field(default_factory=SftTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data, self.evaluation)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoStage:
    """Direct preference optimisation; the reference is what `from` gives."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("preference",)
    SEQUENCES: ClassVar[int] = 2

    kind: Annotated[Literal["dpo"], Key("Kind of the stage.", required=True, own=True)] = "dpo"
    from_: Start
    data: Mixture
    evaluation: EvaluationSetting = None
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[DpoTraining, Key("How to train.")] = field(default_factory=DpoTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data, self.evaluation)]


Rewards: TypeAlias = Annotated[
    Mapping[Label, Reward],
    Key("What rates the answers, by label; an answer's reward is their sum, each times its weight.", own=True),
    Filled(),
]


def _judges(rewards: Mapping[str, Reward]) -> list[tuple[str, str]]:
    """The reward models among rewards, as references of a stage."""
    return [("reward_model", one.model) for one in rewards.values() if isinstance(one, RewardModel)]


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoStage:
    """Group relative policy optimisation: answers are sampled, rated, and compared within their group."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("prompts",)
    SEQUENCES: ClassVar[int] = 1

    kind: Annotated[Literal["grpo"], Key("Kind of the stage.", required=True, own=True)] = "grpo"
    from_: Start
    data: Mixture
    rewards: Rewards
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[GrpoTraining, Key("How to train.")] = field(default_factory=GrpoTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data), *_judges(self.rewards)]


@dataclass(frozen=True, kw_only=True, slots=True)
class RlooStage:
    """REINFORCE leave-one-out: answers are sampled, rated, and each is held against the others to its prompt."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("prompts",)
    SEQUENCES: ClassVar[int] = 1

    kind: Annotated[Literal["rloo"], Key("Kind of the stage.", required=True, own=True)] = "rloo"
    from_: Start
    data: Mixture
    rewards: Rewards
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[RlooTraining, Key("How to train.")] = field(default_factory=RlooTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data), *_judges(self.rewards)]


@dataclass(frozen=True, kw_only=True, slots=True)
class KtoStage:
    """Kahneman-Tversky optimisation, on answers that are good or not; the reference is what `from` gives."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("unpaired", "preference")
    SEQUENCES: ClassVar[int] = 2

    kind: Annotated[Literal["kto"], Key("Kind of the stage.", required=True, own=True)] = "kto"
    from_: Start
    data: Mixture
    evaluation: EvaluationSetting = None
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[KtoTraining, Key("How to train.")] = field(default_factory=KtoTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data, self.evaluation)]


@dataclass(frozen=True, kw_only=True, slots=True)
class OrpoStage:
    """Odds ratio preference optimisation; it has no reference."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("preference",)
    SEQUENCES: ClassVar[int] = 2

    kind: Annotated[Literal["orpo"], Key("Kind of the stage.", required=True, own=True)] = "orpo"
    from_: Start
    data: Mixture
    evaluation: EvaluationSetting = None
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[OrpoTraining, Key("How to train.")] = field(default_factory=OrpoTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data, self.evaluation)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CpoStage:
    """Contrastive preference optimisation, SimPO and AlphaPO among it; it has no reference."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("preference",)
    SEQUENCES: ClassVar[int] = 2

    kind: Annotated[Literal["cpo"], Key("Kind of the stage.", required=True, own=True)] = "cpo"
    from_: Start
    data: Mixture
    evaluation: EvaluationSetting = None
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[CpoTraining, Key("How to train.")] = field(default_factory=CpoTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data, self.evaluation)]


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardStage:
    """A model that scores answers; one without a head for that gets a new one."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("preference",)
    SEQUENCES: ClassVar[int] = 2

    kind: Annotated[Literal["reward"], Key("Kind of the stage.", required=True, own=True)] = "reward"
    from_: Start
    data: Mixture
    evaluation: EvaluationSetting = None
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[RewardTraining, Key("How to train.")] = field(default_factory=RewardTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data, self.evaluation)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillStage:
    """Distillation: a student learns how likely a teacher finds each next token."""

    RULES: ClassVar[Rules] = _ADAPTER_OR_TARGETS
    FORMATS: ClassVar[tuple[str, ...]] = ("prompts", "messages", "completion", "text")
    SEQUENCES: ClassVar[int] = 1

    kind: Annotated[Literal["distill"], Key("Kind of the stage.", required=True, own=True)] = "distill"
    from_: Start
    teacher: Annotated[Name, Key("A model with the same tokens, which the student is to become like.", own=True)]
    data: Mixture
    adapter: NewAdapter = None
    targets: Targets = None
    train: Annotated[DistillTraining, Key("How to train.")] = field(default_factory=DistillTraining)

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *data_references(self.data), ("teacher", self.teacher)]


TrainStage: TypeAlias = (
    SftStage | DpoStage | KtoStage | OrpoStage | CpoStage | RewardStage | GrpoStage | RlooStage | DistillStage
)
"""Those that train what is there, under `from:`; each says which formats of data it learns from, and how many
sequences a row of it has."""
