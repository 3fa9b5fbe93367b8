"""The tables of the stages that compute weights from weights: every key's meaning, bounds and default."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the shapes are made from the fields' types
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

from builder.compound import Either
from builder.names import Label, Name, RepositoryPath
from builder.shapes import Number, Text
from builder.tables import Filled, Key, Rules
from builder.weighting import ONE, Weighting
from registry.selector import Selector  # noqa: TC001 - the same

__all__ = [
    "BlendMethod",
    "BlendRule",
    "BlendSettings",
    "BlendSource",
    "BlendStage",
    "CastStage",
    "ExtractStage",
    "FoldStage",
    "FuseStage",
    "GraftStage",
    "HeadSettings",
    "RopeSettings",
    "VocabularySettings",
]

_Model: TypeAlias = Annotated[Name, Key("The model: `base` or a stage.", name="from", own=True)]
_Share: TypeAlias = Annotated[Weighting, Number(minimum=0, maximum=1)]
_Factor: TypeAlias = Annotated[Weighting, Number(minimum=-1000, maximum=1000)]
_Seed: TypeAlias = Annotated[int, Key("Seed of everything random."), Number(minimum=0, maximum=2**32 - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldStage:
    """Puts adapters into a model; all of them act before the one rounding."""

    kind: Annotated[Literal["fold"], Key("Kind of the stage.", required=True, own=True)] = "fold"
    from_: _Model
    adapters: Annotated[
        Mapping[Name, _Factor],
        Key("Adapters, each with its weight; 1 adds it as it was trained.", own=True),
        Filled(),
    ]
    order: Annotated[
        tuple[Name, ...],
        Key("All of them in the order in which they act; needed where one that is no sum meets another.", own=True),
    ] = ()

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), *(("adapter", name) for name in self.adapters)]


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseStage:
    """Makes one LoRA adapter of several adapters on the same model, or of one that is no LoRA."""

    RULES: ClassVar[Rules] = Rules(
        either=(Either(groups=(("rank",), ("energy",)), mend="keep one: `rank`, or the `energy` that decides it"),)
    )

    kind: Annotated[Literal["fuse"], Key("Kind of the stage.", required=True, own=True)] = "fuse"
    adapters: Annotated[
        Mapping[Name, _Factor],
        Key("Adapters, each with its weight; where it is 0, nothing of it is taken.", own=True),
        Filled(),
    ]
    method: Annotated[
        Literal["concat", "linear", "ties", "dare_linear", "dare_ties"],
        Key(
            "`concat` puts the factors side by side, which is exact; `linear` sums the deltas and cuts them to a rank; "
            "the others thin them out first, as the methods of `blend` do."
        ),
    ] = "concat"
    rank: Annotated[
        int, Key("Largest rank of each sum; 0 keeps all of it (concat, linear)."), Number(minimum=0, maximum=65536)
    ] = 0
    energy: Annotated[
        float | None,
        Key("Smallest rank that keeps this share of each delta's squared norm."),
        Number(above=0, maximum=1),
    ] = None
    density: Annotated[_Share, Key("Share of each delta's elements that `ties` and `dare` keep.")] = field(
        default_factory=lambda: ONE
    )
    seed: _Seed = 0

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("adapter", name) for name in self.adapters]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractStage:
    """Makes a LoRA adapter of the difference of two models."""

    RULES: ClassVar[Rules] = Rules(
        either=(Either(groups=(("rank",), ("energy",)), mend="keep one: `rank`, or the `energy` that decides it"),)
    )

    kind: Annotated[Literal["extract"], Key("Kind of the stage.", required=True, own=True)] = "extract"
    from_: Annotated[Name, Key("The model that was changed.", name="from", own=True)]
    against: Annotated[Name, Key("The model that it was made from; the adapter is one on this.", own=True)]
    rank: Annotated[int, Key("Largest rank of a pair of factors."), Number(minimum=1, maximum=65536)] = 16
    energy: Annotated[
        float | None,
        Key("Instead: the smallest rank that keeps this share of each difference's squared norm."),
        Number(above=0, maximum=1),
    ] = None
    targets: Annotated[Selector | None, Key("What to extract; absent: every matrix that differs.", own=True)] = None
    rest: Annotated[
        Literal["refuse", "save", "drop"],
        Key(
            "What of a difference that no LoRA can hold, such as that of a norm: `refuse` it, `save` the whole tensor "
            "with the adapter, or `drop` it."
        ),
    ] = "refuse"

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_), ("against", self.against)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CastStage:
    """Stores a model in another dtype; a 4- or 8-bit model is dequantised."""

    kind: Annotated[Literal["cast"], Key("Kind of the stage.", required=True, own=True)] = "cast"
    from_: _Model
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Key("Type that the weights are stored in.", own=True)]
    targets: Annotated[Selector | None, Key("What to cast; absent: every float.", own=True)] = None

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_)]


BlendMethod: TypeAlias = Literal[
    "linear",
    "slerp",
    "nuslerp",
    "multislerp",
    "karcher",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "sce",
    "model_stock",
    "nearswap",
    "arcee_fusion",
    "passthrough",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendSource:
    """One model of a blend; a lone number is its weight."""

    RULES: ClassVar[Rules] = Rules(shorthand="weight")

    weight: Annotated[_Factor, Key("How much of it; what that means is the method's.")] = field(
        default_factory=lambda: ONE
    )
    density: Annotated[_Share, Key("Share of its task vector's elements that ties, dare and della keep.")] = field(
        default_factory=lambda: ONE
    )
    epsilon: Annotated[_Share, Key("della: how far the chance to be kept goes up and down with the size.")] = field(
        default_factory=lambda: Weighting.of(0.15)
    )
    gamma: Annotated[_Share, Key("breadcrumbs: share of the largest elements that is dropped, too.")] = field(
        default_factory=lambda: Weighting.of(0.01)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendSettings:
    """How models are blended, beside the method itself."""

    normalize: Annotated[bool | None, Key("Divide by the sum of the weights; absent: as the method has it.")] = None
    rescale: Annotated[
        bool | None, Key("Keep the sum of sizes when elements are dropped; absent: as the method has it.")
    ] = None
    lambda_: Annotated[_Factor, Key("Factor of the sum of the task vectors.", name="lambda")] = field(
        default_factory=lambda: ONE
    )
    t: Annotated[_Factor, Key("slerp, nearswap: where between the base (0) and the other model (1).")] = field(
        default_factory=lambda: Weighting.of(0.5)
    )
    select_topk: Annotated[_Share, Key("sce: share of the elements, by variance, that is kept.")] = field(
        default_factory=lambda: ONE
    )
    row_wise: Annotated[bool, Key("nuslerp: turn each row by itself, not the whole tensor.")] = False
    filter_wise: Annotated[bool, Key("model_stock: one angle for each row, not for the whole tensor.")] = False
    steps: Annotated[int, Key("karcher: most steps."), Number(minimum=1, maximum=10_000)] = 10
    tolerance: Annotated[float, Key("karcher: length of a step that ends it."), Number(above=0, maximum=1)] = 1e-5
    seed: _Seed = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendRule:
    """Another method, or other settings, for some tensors."""

    on: Annotated[Selector, Key("Which tensors.")]
    method: Annotated[BlendMethod, Key("Their method.")]
    settings: Annotated[BlendSettings, Key("Their settings.")] = field(default_factory=BlendSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendStage:
    """Makes one model of several with the same architecture."""

    kind: Annotated[Literal["blend"], Key("Kind of the stage.", required=True, own=True)] = "blend"
    method: Annotated[BlendMethod, Key("How.", own=True)]
    models: Annotated[Mapping[Name, BlendSource], Key("The models, each with its weight.", own=True), Filled()]
    against: Annotated[
        Name, Key("The model that task vectors start from, or that slerp and its like start at.", own=True)
    ] = ""
    settings: Annotated[BlendSettings, Key("Settings of the method.")] = field(default_factory=BlendSettings)
    methods: Annotated[
        tuple[BlendRule, ...], Key("Other methods for some tensors; the last one that means a tensor counts.", own=True)
    ] = ()
    layers: Annotated[
        tuple[
            Mapping[Name, Annotated[str, Text(pattern=r"\d{1,4}(?:-\d{1,4})?", expected="layers such as 0-15")]], ...
        ],
        Key(
            "The layers of the result from the first to the last: in each entry, layers of one model, or equally many "
            "of several, blended. Absent: layer by layer.",
            own=True,
        ),
    ] = ()
    tokenizer: Annotated[
        Literal["same", "base", "union"],
        Key(
            "`same`: all models must have one vocabulary; `base`: that of `against`, else of the model with the lowest "
            "digest; `union`: every token of any."
        ),
    ] = "same"
    dtype: Annotated[
        Literal["same", "float32", "bfloat16", "float16"],
        Key("Type that the weights are stored in; `same`: that of the base."),
    ] = "same"

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        against = [("against", self.against)] if self.against else []
        return [*(("model", name) for name in self.models), *against]


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularySettings:
    """New tokens."""

    RULES: ClassVar[Rules] = Rules()

    tokens: Annotated[tuple[Annotated[str, Text(max_length=512)], ...], Key("Plain tokens to add.")] = ()
    special: Annotated[tuple[Annotated[str, Text(max_length=512)], ...], Key("Special tokens to add.")] = ()
    multiple: Annotated[
        int, Key("Rows of the embedding are filled up to a multiple of this."), Number(minimum=1, maximum=65536)
    ] = 1
    start: Annotated[
        Literal["pieces", "mean", "normal", "zero"],
        Key(
            "What a new row holds at first: the mean of the rows of the `pieces` that the token was made of before, "
            "the `mean` of all rows, random `normal` numbers with the spread of the old rows, or `zero`."
        ),
    ] = "pieces"
    seed: _Seed = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSettings:
    """Another head in place of the language model's."""

    type: Annotated[
        Literal["classification", "reward", "value"],
        Key("`classification` gives a score for each label; `reward` and `value` give one number."),
    ]
    labels: Annotated[tuple[Label, ...], Key("Names of the classes.")] = ()
    pad: Annotated[
        str, Text(max_length=512), Key("Token that fills up short rows; empty: the one that the model names.")
    ] = ""
    start: Annotated[
        Literal["normal", "zero"], Key("What its weight holds at first; `normal` has the model's initializer_range.")
    ] = "normal"
    seed: _Seed = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeSettings:
    """Rotary positions stretched to a longer context."""

    type: Annotated[Literal["linear", "dynamic", "yarn"], Key("How.")]
    factor: Annotated[float, Key("How many times longer."), Number(minimum=1, maximum=1024)]


@dataclass(frozen=True, kw_only=True, slots=True)
class GraftStage:
    """Changes the shape of a model: its vocabulary, head, layers or positions."""

    RULES: ClassVar[Rules] = Rules(
        either=(
            Either(groups=(("head",), ("untie",)), mend="a new head takes the place of the old one: leave `untie` out"),
        )
    )

    kind: Annotated[Literal["graft"], Key("Kind of the stage.", required=True, own=True)] = "graft"
    from_: _Model
    vocabulary: Annotated[VocabularySettings | None, Key("New tokens.")] = None
    head: Annotated[HeadSettings | None, Key("Another head.")] = None
    untie: Annotated[bool, Key("Give the head weights of its own, equal to the embedding that it was tied to.")] = False
    layers: Annotated[
        tuple[Annotated[str, Text(pattern=r"\d{1,4}(?:-\d{1,4})?", expected="layers such as 0-15")], ...],
        Key("The layers of the result, as ranges of the old ones; one may come twice, or not at all.", own=True),
    ] = ()
    context: Annotated[
        int, Key("Longest sequence of the result, in tokens; 0 keeps it."), Number(minimum=0, maximum=2**24)
    ] = 0
    rope: Annotated[RopeSettings | None, Key("Stretch rotary positions to a longer context.")] = None
    template: Annotated[
        RepositoryPath, Key("A file with the chat template that the model shall have, in Jinja.", own=True)
    ] = ""

    def references(self) -> list[tuple[str, str]]:
        """What it points at, as pairs of a role and a name of the manifest."""
        return [("from", self.from_)]
