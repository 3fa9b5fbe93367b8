"""Where each module, or parameter, of an adapter is in a model, and what is done to it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.weights.adapters import WRAPPER
from builder.weights.effect import Applied, Block
from builder.weights.experts import NESTED
from builder.weights.method import Subject
from builder.weights.placed import Piece, Placed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.weights.adapters import Part
    from builder.weights.effect import Effect
    from builder.weights.experts import Slice
    from builder.weights.site import Site
    from builder.weights.stream import Stored

__all__ = ["Place", "module_place", "part_effects", "place_of", "subject_at", "within"]

_MATRIX, _STACK = 2, 3

# Families whose stacked experts are [experts, in, out]; for square ones only this tells.
_TRANSPOSED_EXPERTS = frozenset({"aria", "aria_text", "gpt_oss", "openai_privacy_filter"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One module, or parameter, of an adapter in the model.

    Attributes:
        part: Its tensors.
        key: Its name, as PEFT matches patterns on it.
        name: Its weight on disk.
        weight: The same where it lies; of a stack that holds other weights, too, only its rows.
        shape: ``(out, in)`` as the module sees it, of one matrix.
        transposed: The file has it the other way round.
        embedding: It is an embedding.
        experts: How many matrices it stacks; 0 for a plain one.
        slices: Of stacked matrices that lie one by one, where each does; of a lone expert's, where in a stack it is.
    """

    part: Part
    key: str
    name: str
    weight: Stored
    shape: tuple[int, int]
    transposed: bool = False
    embedding: bool = False
    experts: int = 0
    slices: tuple[Slice, ...] = ()


def place_of(site: Site, part: Part) -> Place:
    """Where a part of the adapter is.

    Raises:
        InvalidError: The model has no such module, or one of another shape or dtype.
    """
    if parameter := _parameter(site, part):
        return _parameter_place(site, part, parameter)
    weight = f"{part.module}.weight"
    stack = None if site.whole(weight) else site.stacked(weight)
    return module_place(site, part) if stack is None else _expert_place(site, part, stack)


def module_place(site: Site, part: Part) -> Place:
    """Where a module is whose weight is a tensor of its own.

    Raises:
        InvalidError: The model has no such module, or one of another shape, kind or dtype.
    """
    name = site.name_of(f"{part.module}.weight", part.first)
    weight, method = site.model.tensors[name], site.adapter.method
    site.check_float(name, part.first)
    embedding = site.model.network.component_of(name).startswith("embedding.")
    matrix = len(weight.info.shape) == _MATRIX
    if not matrix and not (len(weight.info.shape) == 1 and method.on_vectors):
        raise site.misfit(part, name)
    shape = weight.info.shape if matrix else (1, *weight.info.shape)
    transposed = matrix and _is_transposed(site, part, shape, embedding=embedding)
    logical = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
    if site.features(part) not in {None, logical}:
        raise site.misfit(part, name)
    conv1d = transposed and not embedding
    if (embedding and not method.on_embeddings) or (conv1d and not method.on_conv1d):
        kind = "an embedding" if embedding else "a Conv1D"
        problem = f"is on {part.module}, {kind}; PEFT has no {site.adapter.config.type} for those"
        raise site.bad(part.first, problem, "train the adapter on other modules")
    return Place(
        part=part,
        key=part.module,
        name=name,
        weight=weight,
        shape=logical,
        transposed=transposed,
        embedding=embedding,
    )


def _is_transposed(site: Site, part: Part, shape: tuple[int, ...], *, embedding: bool) -> bool:
    """The shape tells. For a square weight the family does: PEFT takes its own flag back on a module that is no Conv1D.

    Raises:
        InvalidError: The family is not known, and the flag says that such a weight is transposed.
    """
    if embedding:
        return True
    rows, columns = site.features(part) or (0, 0)
    if rows != columns:
        return shape == (columns, rows)
    if not site.is_known and site.adapter.config.flag("fan_in_fan_out"):
        problem = f"is on {part.module}, a square weight, and whether its family, {site.family}, has it transposed"
        mend = "write `fan_in_fan_out: false` into adapter_config.json if the module is a torch.nn.Linear"
        raise site.bad(part.first, f"{problem} is not known", mend)
    return site.is_conv1d(part.module)


def _expert_place(site: Site, part: Part, at: Slice) -> Place:
    """Where a module is that is one expert, in a model that stacks them."""
    stack = site.model.tensors[at.name]
    site.check_float(at.name, part.first)
    rows, columns = at.in_tall(stack.info.shape[1]), stack.info.shape[2]
    shape = (rows.stop - rows.start, columns)
    if site.features(part) not in {None, shape}:
        raise site.misfit(part, at.name)
    return Place(part=part, key=part.module, name=at.name, weight=stack.part(rows), shape=shape, slices=(at,))


def _parameter(site: Site, part: Part) -> str:
    """The parameter that PEFT has put a part on by ``target_parameters``; empty where it is on a module.

    Of several parameters of one module PEFT wraps each around those before it.
    """
    config, module = site.adapter.config, part.module.replace(WRAPPER, "")
    outer = part.module.count(WRAPPER)
    listed = isinstance(config.values.get("target_modules"), list) and config.targets(module)
    leaves = [] if listed else [leaf for leaf in config.parameters(module) if _lies(site, f"{module}.{leaf}")]
    if outer >= max(1, len(leaves)):
        problem = f"is on {part.module}, and target_parameters does not name so many parameters of {module}"
        raise site.bad(part.first, problem, "save weights and configuration together")
    if len(leaves) > 1 and (strange := [leaf for leaf in leaves if leaf not in NESTED]):
        problem = f"is on one of several parameters of {module}; in which order PEFT takes {strange[0]} is not known"
        raise site.bad(part.first, problem, "train an adapter on one of them alone")
    leaves.sort(key=lambda leaf: NESTED.index(leaf) if leaf in NESTED else 0)
    return f"{module}.{leaves[-1 - outer]}" if leaves else ""


def _lies(site: Site, parameter: str) -> bool:
    return bool(site.whole(parameter) or site.one_by_one(parameter))


def _parameter_place(site: Site, part: Part, parameter: str) -> Place:
    """Where a parameter is that PEFT treats by itself: a matrix as it lies, or stacked matrices."""
    slices = () if site.whole(parameter) else site.one_by_one(parameter)
    name = slices[0].name if slices else site.whole(parameter)
    weight, features = site.model.tensors[name], site.features(part)
    site.check_float(name, part.first)
    if features is None:
        problem = f"is on {parameter}, which is no module; PEFT puts only plain factors on those"
        raise site.bad(part.first, problem, f"train a plain {site.adapter.config.type} adapter")
    shape = weight.info.shape
    if slices:
        shape = (slices[-1].expert + 1, slices[-1].rows.stop, shape[1])
    if len(shape) not in {_MATRIX, _STACK} or (len(shape) == _STACK and site.adapter.method.stack is None):
        raise site.misfit(part, name)
    rows, columns = shape[-2:]
    turned = len(shape) == _STACK and not slices and features == (columns, rows)
    transposed = turned and (rows != columns or site.family in _TRANSPOSED_EXPERTS)
    logical = (columns, rows) if transposed else (rows, columns)
    if features != logical:
        raise site.misfit(part, name)
    return Place(
        part=part,
        key=parameter,
        name=name,
        weight=weight,
        shape=logical,
        transposed=transposed,
        experts=shape[0] if len(shape) == _STACK else 0,
        slices=slices,
    )


def subject_at(site: Site, place: Place, largest: tuple[int, int]) -> Subject:
    """What a method has to know of a place.

    Args:
        site: The adapter and the model.
        place: Where.
        largest: The largest ``out`` and the largest ``in`` of all places.
    """
    return Subject(
        config=site.adapter.config,
        module=place.key,
        tensors=place.part.tensors,
        shared=site.adapter.shared,
        shape=place.shape,
        weight=place.weight,
        bias=site.model.tensors.get(f"{place.name.removesuffix('.weight')}.bias"),
        largest=largest,
        embedding=place.embedding,
        conv1d=place.transposed and not place.embedding,
        index=site.order.get(place.part.module, 0),
        count=len(site.adapter.parts),
    )


def part_effects(site: Site, place: Place, largest: tuple[int, int]) -> Iterator[tuple[str, Applied]]:
    """What is done to the parameters of one place: name on disk, effect.

    Raises:
        InvalidError: The adapter's tensors or its configuration do not fit.
    """
    subject, method = subject_at(site, place, largest), site.adapter.method
    if place.experts and method.stack is not None:
        stack = method.stack(subject, place.experts)
        for one in place.slices:
            yield one.name, Applied(effect=stack.part(one.expert, one.rows))
        if not place.slices:
            yield place.name, Applied(effect=stack.whole(transposed=place.transposed), transposed=place.transposed)
        return
    for parameter, effect in method.effects(subject).items():
        if parameter != "weight":
            yield _beside(site, place, parameter), Applied(effect=effect)
        elif place.slices:
            yield place.name, within(site, place.slices[0], effect)
        else:
            yield place.name, Applied(effect=effect, transposed=place.transposed)


def _beside(site: Site, place: Place, parameter: str) -> str:
    """Name on disk of another parameter of a module."""
    found = f"{place.name.removesuffix('.weight')}.{parameter}"
    if place.slices or found not in site.model.tensors:
        mend = "train it without a bias, or fold it into a model whose modules have one"
        raise site.bad(place.part.first, f"changes {place.key}.{parameter}, which the model has not", mend)
    return found


def within(site: Site, at: Slice, effect: Effect) -> Applied:
    """An effect on a part of a stack."""
    _, outs, columns = site.model.tensors[at.name].info.shape
    return Applied(effect=Placed(pieces=(Piece(Block(at.in_tall(outs), slice(0, columns)), effect),)))
