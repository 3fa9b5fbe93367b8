"""What each method of ``blend`` takes: how many models, a base or not, which settings. No torch.

So that a manifest that says something its method would not hear is refused when it is read, not after an hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from builder.clash import Clash
from builder.weight_stages import BlendMethod, BlendSettings, BlendSource, BlendStage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.yaml12 import KeyPath

__all__ = ["BLEND_METHODS", "BlendNeeds", "clashes"]

BaseNeed: TypeAlias = Literal["unread", "optional", "needed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendNeeds:
    """What one method takes.

    Attributes:
        base: Whether it reads the model named under ``against``.
        fewest: Models that it needs, the base not counted.
        most: Models that it can take; 0 for any number.
        source: Fields of :class:`~builder.weight_stages.BlendSource` that it reads.
        settings: Fields of :class:`~builder.weight_stages.BlendSettings` that it reads.
        normalize: Whether it divides by the sum of the weights, where nothing is said.
        rescale: Whether it holds the sum of sizes when elements are dropped, where nothing is said.
    """

    base: BaseNeed
    fewest: int = 1
    most: int = 0
    source: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()
    normalize: bool = False
    rescale: bool = False

    @property
    def leaves_out(self) -> bool:
        """Whether a model of weight 0 is as good as absent."""
        return "weight" in self.source and not self.most

    def count_problem(self, count: int) -> str:
        """What is wrong with a number of models, to stand after "has"; empty where it fits."""
        if count >= self.fewest and (not self.most or count <= self.most):
            return ""
        bound = "exactly" if self.fewest == self.most else "at least" if count < self.fewest else "at most"
        number = self.fewest if count < self.fewest else self.most
        return f"{_models(count)}{' beside the base' if self.base == 'needed' else ''}, needs {bound} {number}"


def _task(*source: str, normalize: bool = False, rescale: bool = False, random: bool = False) -> BlendNeeds:
    """A method on task vectors; with a ``density`` among what it reads it drops elements, and may rescale the rest."""
    settings = {"lambda_", "normalize"} | ({"rescale"} if source else set()) | ({"seed"} if random else set())
    return BlendNeeds(
        base="needed",
        source=frozenset({"weight", *source}),
        settings=frozenset(settings),
        normalize=normalize,
        rescale=rescale,
    )


BLEND_METHODS: Final[Mapping[BlendMethod, BlendNeeds]] = {
    "linear": BlendNeeds(
        base="unread", source=frozenset({"weight"}), settings=frozenset({"normalize"}), normalize=True
    ),
    "slerp": BlendNeeds(base="needed", most=1, settings=frozenset({"t"})),
    "nuslerp": BlendNeeds(
        base="optional", fewest=2, most=2, source=frozenset({"weight"}), settings=frozenset({"row_wise"})
    ),
    "multislerp": BlendNeeds(
        base="optional", source=frozenset({"weight"}), settings=frozenset({"normalize"}), normalize=True
    ),
    "karcher": BlendNeeds(base="unread", settings=frozenset({"steps", "tolerance"})),
    "task_arithmetic": _task(),
    "ties": _task("density", normalize=True),
    "dare_linear": _task("density", rescale=True, random=True),
    "dare_ties": _task("density", rescale=True, random=True),
    "della": _task("density", "epsilon", normalize=True, rescale=True, random=True),
    "della_linear": _task("density", "epsilon", rescale=True, random=True),
    "breadcrumbs": _task("density", "gamma"),
    "breadcrumbs_ties": _task("density", "gamma"),
    "sce": BlendNeeds(base="needed", settings=frozenset({"select_topk"})),
    "model_stock": BlendNeeds(base="needed", fewest=2, settings=frozenset({"filter_wise"})),
    "nearswap": BlendNeeds(base="needed", most=1, settings=frozenset({"t"})),
    "arcee_fusion": BlendNeeds(base="needed", most=1),
    "passthrough": BlendNeeds(base="unread", source=frozenset({"weight"})),  # of one model, tensor by tensor
}


def clashes(stage: BlendStage) -> Iterator[Clash]:
    """Everything in a blend's table that its methods cannot have, with where it stands.

    A setting counts as said where it differs from its default. What is said on a model is read if any of the stage's
    methods reads it. Numbers that are not the same for every tensor are checked when a tensor is blended.
    """
    methods: list[BlendMethod] = []
    for path, method, settings in _said_methods(stage):
        methods.append(method)
        needs = BLEND_METHODS[method]
        if needs.base == "needed" and not stage.against:
            yield Clash(("against",), f"{method} needs a base", "name the model that the others were made from")
        if needs.base != "unread" and stage.against in stage.models:
            problem = f"{stage.against!r} is the base of {method}, and one of its models"
            yield Clash(("models", stage.against), problem, "take it out of `models`")
        for names in _groups(stage):
            if problem := needs.count_problem(len(names)):
                yield Clash((*path, "method"), f"{method} has {problem}", "change the models, or choose another method")
        for key in _changed(settings, BlendSettings(), needs.settings):
            yield Clash((*path, "settings", key), f"{method} does not read `{key}`", _instead(needs.settings))
        yield from _number_clashes(stage, method, settings)
    some = list(dict.fromkeys(methods))
    read = frozenset[str]().union(*(BLEND_METHODS[method].source for method in some))
    for name, source in stage.models.items():
        for key in _changed(source, BlendSource(), read):
            problem = f"{' and '.join(some)} {'do' if len(some) > 1 else 'does'} not read `{key}`"
            yield Clash(("models", name, key), problem, _instead(read))


def _said_methods(stage: BlendStage) -> Iterator[tuple[KeyPath, BlendMethod, BlendSettings]]:
    yield (), stage.method, stage.settings
    for index, rule in enumerate(stage.methods):
        yield ("methods", index), rule.method, rule.settings


def _groups(stage: BlendStage) -> list[Sequence[str]]:
    """The models that come together: all of them, or those of each entry of ``layers:`` that has several."""
    if not stage.layers:
        return [list(stage.models)]
    groups = [[name for name in entry if name in stage.models] for entry in stage.layers if len(entry) > 1]
    return [names for names in groups if names]


def _changed(table: BlendSettings | BlendSource, default: object, read: frozenset[str]) -> list[str]:
    """Keys that say something else than their default, and are not read."""
    names = [one.name for one in fields(table) if getattr(table, one.name) != getattr(default, one.name)]
    return [_key(name) for name in names if name not in read]


def _key(name: str) -> str:
    """A field as the manifest writes it."""
    return name.rstrip("_")


def _instead(read: frozenset[str]) -> str:
    keys = ", ".join(f"`{_key(name)}`" for name in sorted(read))
    return f"take it out; what is read is {keys}" if keys else "take it out; nothing is read"


def _number_clashes(stage: BlendStage, method: BlendMethod, settings: BlendSettings) -> Iterator[Clash]:
    """Numbers with which a method has no result, where they are the same for every tensor."""
    needs = BLEND_METHODS[method]
    divides = needs.normalize if settings.normalize is None else settings.normalize
    if method == "nuslerp" or (divides and method in {"linear", "multislerp"}):
        weights = [source.weight.constant for source in stage.models.values()]
        known = [weight for weight in weights if weight is not None]
        if not stage.layers and len(known) == len(weights) and not math.fsum(known):
            problem = f"{method} divides by the sum of the weights, which is 0"
            yield Clash(("models",), problem, "give them other weights")
    if "epsilon" not in needs.source:
        return
    for name, source in stage.models.items():
        density, epsilon = source.density.constant, source.epsilon.constant
        if density is None or epsilon is None or not 0 < density < 1 or epsilon < density < 1 - epsilon:
            continue
        problem = f"chances from {density - epsilon:g} to {density + epsilon:g}; they must be within 0 and 1"
        yield Clash(("models", name, "epsilon"), problem, "choose a smaller epsilon, or a density of 1")


def _models(count: int) -> str:
    return f"{count} model{'s' if count != 1 else ''}"
