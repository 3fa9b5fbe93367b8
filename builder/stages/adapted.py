"""Adapters on one model: each checked against it, and which of its tensors they change."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.stages.changes import Did
from builder.stages.pedigree import check_base, check_rows, digest_of, order_of
from builder.weighting import ONE, Weighting
from builder.weights.adapters import read_adapter
from builder.weights.placed import Placed
from builder.weights.saved import Replaced, Rows
from builder.weights.site import Site
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.stage import Input
    from builder.weights.adapters import Adapter
    from builder.weights.effect import Applied, Effect
    from builder.weights.folder import ModelFolder
    from builder.weights.stream import Stored
    from registry.digest import Digest

__all__ = ["AdaptedTensor", "AdapterPart", "adapted_tensors", "did", "read_parts"]

_MATRIX = 2
_EXPERTS = "mlp.experts"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterPart:
    """One of several adapters.

    Attributes:
        name: The manifest's word for it.
        source: Where it came from.
        type: PEFT's name of its type, in small letters.
        weights_digest: Of its tensors.
        task_type: PEFT's word for what its model is for; ``None`` where it leaves that open.
        decomposes: It takes singular vectors of the model's weights.
        effects: Tensor name -> what is done to it, with its weight; where that is 0, nothing.
        modules: Module, as the model's files name it -> as PEFT does.
        notes: For the record.
    """

    name: str
    source: str
    type: str
    weights_digest: Digest
    task_type: str | None
    decomposes: bool
    effects: Mapping[str, Applied]
    modules: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptedTensor:
    """A tensor of the model and the adapters that change it.

    Attributes:
        name: Its name on disk.
        module: Its module, as PEFT names it; empty where the adapters change a parameter that is no module's own.
        stored: Where it lies.
        component: What it is.
        parts: The adapters, in an order that no mapping decides.
    """

    name: str
    module: str
    stored: Stored
    component: str
    parts: tuple[AdapterPart, ...]

    @property
    def effects(self) -> tuple[Applied, ...]:
        """What each adapter does."""
        return tuple(part.effects[self.name] for part in self.parts)

    @property
    def owner(self) -> str:
        """Its module, as the model's files name it."""
        return self.name.rpartition(".")[0]

    @property
    def embedding(self) -> bool:
        """Whether its module is an embedding."""
        return self.component.startswith("embedding.")

    @property
    def is_matrix(self) -> bool:
        """Whether a pair of factors may hold what is done to it."""
        plain = len(self.stored.info.shape) == _MATRIX and self.name.endswith(".weight")
        changed = not any(isinstance(one.effect, Replaced | Rows) for one in self.effects)
        return plain and changed and bool(self.module) and self.component != _EXPERTS

    def refused(self, what: str, mend: str) -> InvalidError:
        """An error on it."""
        sources = ", ".join(part.source for part in self.parts)
        return InvalidError(what, where=f"{sources}: {self.module or self.name}", mend=mend)


def did(effects: Sequence[Applied], parts: Iterable[AdapterPart]) -> Did:
    """What effects do to a tensor, in the words of a component map.

    Args:
        effects: One or more.
        parts: The adapters that they are of.
    """
    first = effects[0]
    if len(effects) > 1:
        change = "composed"
    elif first.effect.additive:
        change = "added"
    else:
        change = "overridden" if first.scale == 1 and _puts_its_own(first.effect) else "composed"
    return Did(change, ", ".join(sorted({part.name for part in parts})))


def _puts_its_own(effect: Effect) -> bool:
    """Whether it puts numbers of its own in the place of the weight, or of parts of it."""
    if isinstance(effect, Placed):
        return all(_puts_its_own(piece.effect) for piece in effect.pieces)
    return isinstance(effect, Replaced | Rows)


def read_parts(
    adapters: Iterable[Input], base: Input, model: ModelFolder, *, taken: str = "taken"
) -> tuple[AdapterPart, ...]:
    """Read adapters and check each against the model, in the order that the manifest gives, else of their digests.

    Args:
        adapters: The inputs.
        base: The model that they are on, as an input.
        model: Its files.
        taken: What becomes of them, for the note on one that has no weight anywhere.

    Raises:
        InvalidError: An adapter of an unrelated base or that does not fit, or a weight that is none.
        OSError: A file cannot be read.
    """
    return tuple(_part(one, base, model, taken) for one in sorted(adapters, key=order_of))


def _part(one: Input, base: Input, model: ModelFolder, taken: str) -> AdapterPart:
    adapter = read_adapter(one.path)
    notes = check_base(adapter, one, base)
    weighting = Weighting.parse(one.settings.get("weight", ONE.to_json()), where=f"adapter {one.name}")
    scales = weighting.resolve(model.network)
    site = Site.of(adapter, model)
    effects = {name: replace(done, scale=scales[name]) for name, done in site.effects().items() if scales[name]}
    check_rows(adapter, one, base, filter(site.is_vocabulary, effects))
    if not effects:  # the law of a sum: nothing is added, so nothing is touched
        notes = (f"adapter {one.name} has weight 0: nothing of it was {taken}",)
    task_type = adapter.config.values.get("task_type")
    return AdapterPart(
        name=one.name,
        source=one.source,
        type=adapter.config.type.lower(),
        weights_digest=digest_of(one),
        task_type=task_type if isinstance(task_type, str) else None,
        decomposes=adapter.method.decomposes and bool(effects),
        effects=effects,
        modules=_modules(adapter, site),
        notes=notes,
    )


def _modules(adapter: Adapter, site: Site) -> dict[str, str]:
    """Modules that an adapter speaks of and that the model has as they are."""
    spoken = [f"{module}.weight" for module in (*(part.module for part in adapter.parts), *adapter.tokens)]
    spoken += [*adapter.replaced, *adapter.copies]
    owners = {name: site.whole(name).rpartition(".")[0] for name in spoken}
    return {owner: name.rpartition(".")[0] for name, owner in owners.items() if owner}


def adapted_tensors(model: ModelFolder, parts: Sequence[AdapterPart]) -> tuple[AdaptedTensor, ...]:
    """Every tensor that an adapter changes, by name.

    Raises:
        InvalidError: Two adapters have different names for one module.
    """
    users: dict[str, list[AdapterPart]] = defaultdict(list)
    for part in parts:
        for name in part.effects:
            users[name].append(part)
    return tuple(_tensor(model, name, tuple(some)) for name, some in sorted(users.items()))


def _tensor(model: ModelFolder, name: str, parts: tuple[AdapterPart, ...]) -> AdaptedTensor:
    called = {part.name: part.modules.get(name.rpartition(".")[0], "") for part in parts}
    tensor = AdaptedTensor(
        name=name,
        module=called[parts[0].name],
        stored=model.tensors[name],
        component=model.network.component_of(name),
        parts=parts,
    )
    if len(set(called.values())) > 1:
        told = ", ".join(f"{module or 'no module of its own'} in {one}" for one, module in called.items())
        raise tensor.refused(
            f"{name} is {told}: the adapters were trained on different classes of the model",
            "train them on one class, such as its ForCausalLM, or fold them into the model",
        )
    return tensor
