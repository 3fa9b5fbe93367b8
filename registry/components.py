"""Which component of a network each tensor belongs to, from tensor names alone; and what a selector means in it.

Names on disk and names in the module tree go through one table, ``PATTERNS``. It is open: a family is added by adding
lines. A tensor that no line knows is reported as unknown, never guessed, and only a tensor glob can select it. Expert
weights lie one by one on disk and fused in the module tree, so both are the one component ``mlp.experts``.

Read all names of a network at once: some names mean one thing beside a sibling and another without it. (Llama's
``post_attention_layernorm`` is the norm before the MLP; in Gemma 2 it comes after the attention.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple, Protocol

from registry.errors import InvalidError
from registry.selector import COMPONENTS, Layers, Part, Selector, nearest, spell_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


__all__ = [
    "COMPONENTS",
    "PATTERNS",
    "UNKNOWN",
    "ComponentCount",
    "Layers",
    "Network",
    "Pattern",
    "Place",
    "Selector",
    "at_layer",
    "layer_of",
    "plain_name",
    "spell_layers",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where in a network a tensor is.

    Attributes:
        component: Such as ``attention.query``.
        layer: Counted from 0; ``None`` outside the layers.
    """

    component: str
    layer: int | None

    def is_in(self, component: str) -> bool:
        """Whether this is the component or a part of it."""
        return self.component == component or self.component.startswith(f"{component}.")


class Pattern(NamedTuple):
    """One line of the table.

    Attributes:
        component: What a tensor of that name is.
        module: Regular expression on the whole name less prefix and layer; ``.weight`` or ``.bias`` may follow.
        in_layer: Whether the name stands inside a layer.
        beside: Only where the same layer has a tensor of this module, too; empty: always.
    """

    component: str
    module: str
    in_layer: bool = True
    beside: str = ""


_ATTENTION = r"(?:self_attn|attn|attention|self_attention|attn\.attention)\."
_MLP = r"(?:mlp|feed_forward|mlp\.shared_experts?|feed_forward\.shared_expert)\."
_MOE = r"(?:mlp|feed_forward|block_sparse_moe)\."

PATTERNS: tuple[Pattern, ...] = (
    Pattern("embedding.token", r"embed_tokens|wte|embed_in|word_embeddings", in_layer=False),
    Pattern("embedding.position", r"wpe|embed_positions", in_layer=False),
    Pattern("embedding.norm", r"word_embeddings_layernorm", in_layer=False),
    # Causal masks and rotary tables that older checkpoints store; the mask's name only reads like a bias.
    Pattern("buffer", r"(?:attn|attention)\.(?:bias|masked_bias)|(?:self_attn|attention)\.rotary_emb\.inv_freq"),
    Pattern("attention.query", _ATTENTION + r"q_proj"),
    Pattern("attention.key", _ATTENTION + r"k_proj"),
    Pattern("attention.value", _ATTENTION + r"v_proj"),
    Pattern("attention.fused", _ATTENTION + r"(?:qkv_proj|query_key_value|c_attn)"),
    Pattern("attention.output", _ATTENTION + r"(?:o_proj|out_proj|dense|c_proj)"),
    Pattern("attention.norm", _ATTENTION + r"(?:[qk]_(?:layer)?norm|(?:query|key)_layernorm)"),
    Pattern("mlp.gate", _MLP + r"gate_proj"),
    Pattern("mlp.up", _MLP + r"(?:up_proj|fc1|fc_in|c_fc|dense_h_to_4h)"),
    Pattern("mlp.down", _MLP + r"(?:down_proj|fc2|fc_out|c_proj|dense_4h_to_h)"),
    Pattern("mlp.fused", _MLP + r"gate_up_proj"),
    Pattern("mlp.experts", _MOE + r"experts\.(?:\d+\.)?(?:w[123]|(?:gate|up|down|gate_up)_proj(?:_bias)?)"),
    Pattern("router", _MOE + r"(?:gate|router|shared_expert_gate)"),
    Pattern("norm.attention", r"post_attention_layernorm", beside="post_feedforward_layernorm"),
    Pattern("norm.attention", r"input_layernorm|ln_1|ln_attn|post_self_attn_layernorm"),
    Pattern("norm.mlp", r"post_attention_layernorm|ln_2|ln_mlp|(?:pre|post)_feedforward_layernorm|post_mlp_layernorm"),
    Pattern("norm.final", r"norm|ln_f|final_layernorm|final_layer_norm", in_layer=False),
    Pattern("head", r"lm_head|embed_out|score", in_layer=False),
)
"""The first line that fits says what a tensor is."""

_PREFIX = r"(?:model\.language_model\.|language_model\.model\.|language_model\.|model\.|transformer\.|gpt_neox\.)?"
_LAYER = re.compile(_PREFIX + r"(?:layers|h)\.(?P<layer>\d{1,5})\.(?P<rest>.+)")
_OUTSIDE = re.compile(_PREFIX + r"(?P<rest>.+)")
_COMPILED = tuple((pattern, re.compile(rf"(?:{pattern.module})(?:\.weight|\.bias)?")) for pattern in PATTERNS)

_PEFT_PREFIX = "base_model.model."
_ADAPTER_LEAF = re.compile(
    r"(?P<module>.+)\.(?:"
    r"lora_(?:embedding_)?[AB](?:\.(?!weight|bias)[^.]+)?(?:\.(?:weight|bias))?"
    r"|lora_magnitude_vector(?:\.(?!weight)[^.]+)?(?:\.weight)?"
    r"|(?:hada|lokr|delora|hira|gralora|glora|deft|peanut|b?oft|hra|road|p?vera|randlora|vblora|unilora|tinylora|frod"
    r"|fourierft|waveft|c3a|miss|shira|supertuning|ia3|beft)_\w+(?:\.\w+)*"
    r"|osf_svd_params\.[USV]_low|(?:token_adapter\.)?trainable_tokens_delta)"
)
_WRAPPED = re.compile(r"\.(?:base_layer|original_module|ln_tuning_layers|modules_to_save\.[^.]+)(?=\.)")
_MATRIX = 2

UNKNOWN = "unknown"
"""Stands for a component in counts of tensors that the table does not know."""


class _Parameter(Protocol):
    @property
    def shape(self) -> Sequence[int]: ...


class _Module(Protocol):
    def named_parameters(self) -> Iterable[tuple[str, _Parameter]]: ...


def plain_name(name: str) -> str:
    """The name that a tensor has, or the weight that it adapts has, in the network without PEFT's wrapping.

    ``base_model.model.h.0.attn.c_attn.lora_A.weight`` gives ``h.0.attn.c_attn.weight``.
    """
    name = _WRAPPED.sub("", name.removeprefix(_PEFT_PREFIX))
    adapted = _ADAPTER_LEAF.fullmatch(name)
    return f"{adapted['module']}.weight" if adapted else name


def layer_of(name: str) -> int | None:
    """The layer that a name carries, counted from 0; ``None`` outside the layers."""
    return _split(plain_name(name))[0]


def at_layer(name: str, layer: int) -> str:
    """The name of the same tensor in another layer: ``h.0.ln_1.weight`` at 3 is ``h.3.ln_1.weight``.

    A name outside the layers stays as it is.
    """
    inside = _LAYER.fullmatch(name)
    return name if inside is None else f"{name[: inside.start('layer')]}{layer}{name[inside.end('layer') :]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """The tensors of a network, or of an adapter, with their places.

    Attributes:
        places: Name -> place, of every tensor that the table knows, in the order given.
        unknown: Names that the table does not know.
        layers: Number of layers: one more than the highest that a name carries.
        names: Every name, in the order given.
        shapes: Name -> shape; empty where only names were given.
    """

    places: Mapping[str, Place]
    unknown: tuple[str, ...]
    layers: int
    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def from_tensors(cls, names: Iterable[str]) -> Network:
        """Places from names on disk, those of all files of one model or adapter together; without shapes."""
        return cls._read(tuple(names), {})

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> Network:
        """Places from names on disk with the tensors' shapes, which ``module_names`` needs."""
        return cls._read(tuple(shapes), {name: tuple(shape) for name, shape in shapes.items()})

    @classmethod
    def from_modules(cls, model: _Module) -> Network:
        """Places from a module tree: anything with ``named_parameters()``; a tied tensor comes once."""
        return cls.from_shapes({name: tuple(parameter.shape) for name, parameter in model.named_parameters()})

    @classmethod
    def _read(cls, names: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> Network:
        split = {name: _split(plain_name(name)) for name in names}
        present = frozenset(split.values())
        places = {
            name: Place(component=component, layer=layer)
            for name, (layer, rest) in split.items()
            if (component := _component(layer, rest, present))
        }
        return cls(
            places=places,
            unknown=tuple(name for name in names if name not in places),
            layers=1 + max((layer for layer, _ in split.values() if layer is not None), default=-1),
            names=names,
            shapes=shapes,
        )

    @property
    def components(self) -> tuple[str, ...]:
        """The components that are there, in the order of a forward pass."""
        there = {place.component for place in self.places.values()}
        return tuple(component for component in COMPONENTS if component in there)

    def select(self, selector: Selector) -> tuple[str, ...]:
        """The tensors that a selector means, in the network's order.

        Raises:
            InvalidError: A component, glob, layer or exclusion in it matches nothing, or nothing is left.
        """
        chosen = {name for part in selector.parts for name in self._select(part, selector)}
        return tuple(name for name in self.names if name in chosen)

    def module_names(self, selector: Selector) -> tuple[str, ...]:
        """The modules whose 2-D weights a selector means: what a LoRA adapter is put on. Vectors are passed over.

        Raises:
            InvalidError: It matches nothing or no 2-D weight, or a stack of matrices, which is no module's weight.
            ValueError: The network was read without shapes.
        """
        if not self.shapes:
            message = "module_names needs shapes: read the network with from_modules or from_shapes"
            raise ValueError(message)
        names = self.select(selector)
        if stacked := [name for name in names if len(self.shapes[name]) > _MATRIX]:
            raise InvalidError(
                f"{stacked[0]} has {len(self.shapes[stacked[0]])} dimensions; LoRA takes matrices",
                where=f"selector {selector}",
                mend=f"exclude {self.component_of(stacked[0])}",
            )
        modules = {
            plain_name(name).removesuffix(".weight"): None
            for name in names
            if len(self.shapes[name]) == _MATRIX and name.endswith(".weight")
        }
        if not modules:
            raise InvalidError(
                f"none of the {len(names)} tensors selected is a matrix that LoRA can be put on",
                where=f"selector {selector}",
                mend="select attention or mlp, or parts of them",
            )
        return tuple(modules)

    def count(self, names: Iterable[str]) -> tuple[ComponentCount, ...]:
        """Tensors counted by component, in the order of a forward pass; unknown ones last, as ``unknown``."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(self.component_of(name), []).append(name)
        return tuple(
            ComponentCount(component=component, layers=_spell(groups[component]), tensors=len(groups[component]))
            for component in (*COMPONENTS, UNKNOWN)
            if component in groups
        )

    def component_of(self, name: str) -> str:
        """Component of a tensor; ``unknown`` where the table does not know its name."""
        return self.places[name].component if name in self.places else UNKNOWN

    def _select(self, part: Part, selector: Selector) -> set[str]:
        """The tensors of one part of a selector."""
        where = f"selector {selector}"
        limit = part.layers.resolve(self.layers, where=where) if part.layers.ranges else None
        within = [name for name in self.names if limit is None or layer_of(name) in limit]
        named = bool(part.components or part.tensors)
        chosen = self._named(part, within, where) if named else set(within)
        if part.exclude is not None:
            chosen -= set(self.select(part.exclude))
        if not chosen:
            raise InvalidError("nothing is left after the exclusion", where=where, mend="exclude less")
        if not named and (strange := [name for name in self.unknown if name in chosen]):
            raise InvalidError(
                f"it means everything, and {len(strange)} of that is of no known component: {', '.join(strange[:3])}",
                where=where,
                mend="name them as globs, under `tensors` to take them or under `exclude` to leave them",
            )
        return chosen

    def _named(self, part: Part, within: Sequence[str], where: str) -> set[str]:
        """The tensors that a part's components and globs mean, each of which must mean something."""
        chosen: set[str] = set()
        for component in part.components:
            hits = {name for name in within if name in self.places and self.places[name].is_in(component)}
            if not hits:
                raise self._no_component(component, part.layers, where)
            chosen |= hits
        for glob in part.tensors:
            hits = {name for name in within if _fits(name, glob)}
            if not hits:
                raise self._no_tensor(glob, part.layers, where)
            chosen |= hits
        return chosen

    def _no_component(self, component: str, layers: Layers, where: str) -> InvalidError:
        found = [name for name, place in self.places.items() if place.is_in(component)]
        if found:
            place = _spell(found)
            return InvalidError(
                f"{component} matches nothing in layers {layers}",
                where=where,
                mend=f"say layers within {place}" if place else f"{component} is outside the layers: name it by itself",
            )
        there = self.components
        if component == "head" and "embedding.token" in there:
            return InvalidError(
                "head matches nothing: the head is tied to embedding.token, they are one tensor",
                where=where,
                mend="say embedding.token, which is both; to train or fold only the head, untie it first",
            )
        if not there:
            return InvalidError(
                f"{component} matches nothing: none of the {len(self.names)} tensors is of a known component",
                where=where,
                mend="name tensors by globs; `varietal components` lists them",
            )
        return InvalidError(
            f"{component} matches nothing",
            where=where,
            mend=f"the nearest is {nearest(component, there)}; this network has {', '.join(there)}",
        )

    def _no_tensor(self, glob: str, layers: Layers, where: str) -> InvalidError:
        if any(_fits(name, glob) for name in self.names):
            return InvalidError(
                f"tensor glob {glob!r} matches nothing in layers {layers}",
                where=where,
                mend="it matches outside them: name it by itself, or say other layers",
            )
        return InvalidError(
            f"tensor glob {glob!r} matches nothing",
            where=where,
            mend=f"the nearest is {nearest(glob, self.names)}; `varietal components` lists what there is",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentCount:
    """Some tensors of one component.

    Attributes:
        component: Component name, or ``unknown``.
        layers: As ``0-5``; empty outside the layers.
        tensors: How many.
    """

    component: str
    layers: str
    tensors: int


def _split(name: str) -> tuple[int | None, str]:
    """Layer and the rest of a plain name, prefix left out."""
    if inside := _LAYER.fullmatch(name):
        return int(inside["layer"]), inside["rest"]
    outside = _OUTSIDE.fullmatch(name)
    return None, outside["rest"] if outside else name


def _component(layer: int | None, rest: str, present: frozenset[tuple[int | None, str]]) -> str:
    """Component by the first line of the table that fits; empty where none does."""
    for pattern, expression in _COMPILED:
        if pattern.in_layer != (layer is not None) or not expression.fullmatch(rest):
            continue
        if not pattern.beside or (layer, f"{pattern.beside}.weight") in present:
            return pattern.component
    return ""


def _fits(name: str, glob: str) -> bool:
    """Whether a glob means a tensor, by its name as it is or without PEFT's wrapping."""
    return fnmatchcase(name, glob) or fnmatchcase(plain_name(name), glob)


def _spell(names: Iterable[str]) -> str:
    return spell_layers(layer for layer in map(layer_of, names) if layer is not None)
