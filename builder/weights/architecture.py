"""Whether models have one architecture: the settings that shape their networks, and their tensors. Headers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from builder.weights.quantisation import quantisation
from registry.canonical import encode
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from builder.weights.folder import ModelFolder
    from registry.canonical import JSON

__all__ = [
    "LAYER_COUNTS",
    "LAYER_LISTS",
    "VOCABULARY_SIZE",
    "Member",
    "check_configs",
    "check_heads",
    "check_shapes",
    "shown",
]

LAYER_COUNTS: Final = frozenset({"n_layer", "n_layers", "num_hidden_layers", "num_layers"})
"""Keys of a configuration that say how many layers there are."""

LAYER_LISTS: Final = frozenset({"attention_layers", "layer_types", "layers_block_type", "mlp_layer_types"})
"""Keys whose value has one entry for each layer."""

VOCABULARY_SIZE: Final = "vocab_size"

_SHAPING: Final = frozenset(
    {
        *LAYER_COUNTS,
        *LAYER_LISTS,
        VOCABULARY_SIZE,
        "activation_function",
        "alibi",
        "attention_bias",
        "d_model",
        "decoder_sparse_step",
        "ffn_dim",
        "first_k_dense_replace",
        "head_dim",
        "hidden_act",
        "hidden_activation",
        "hidden_size",
        "intermediate_size",
        "interleave_moe_layer_step",
        "kv_lora_rank",
        "mlp_bias",
        "mlp_only_layers",
        "model_type",
        "moe_intermediate_size",
        "moe_layers",
        "multi_query",
        "n_embd",
        "n_head",
        "n_inner",
        "n_routed_experts",
        "n_shared_experts",
        "new_decoder_architecture",
        "no_rope_layers",
        "num_attention_heads",
        "num_experts",
        "num_experts_per_tok",
        "num_heads",
        "num_key_value_heads",
        "num_kv_heads",
        "num_local_experts",
        "parallel_attn",
        "partial_rotary_factor",
        "position_embedding_type",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "rotary_dim",
        "rotary_pct",
        "shared_expert_intermediate_size",
        "use_parallel_residual",
        "v_head_dim",
    }
)
"""Keys that say what the tensors are, or what is computed with them: the same numbers mean something else without."""

_SILENT: Final = frozenset(
    {
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_pdrop",
        "dtype",
        "embd_pdrop",
        "hidden_dropout",
        "initializer_range",
        "resid_pdrop",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Keys whose difference tells a reader nothing on the result."""

_ONE_ARCHITECTURE: Final = "blend models that were trained from one another, or from one base"
_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One of several models.

    Attributes:
        name: What the manifest calls it.
        source: Where it came from.
        folder: Its files.
        config: The value of its ``config.json``.
    """

    name: str
    source: str
    folder: ModelFolder
    config: Mapping[str, JSON]


def check_configs(base: Member, other: Member, *, free: Collection[str]) -> tuple[str, ...]:
    """Compare two configurations.

    Args:
        base: The model whose configuration the result has.
        other: Another one.
        free: Keys that may differ although they shape the network.

    Returns:
        Notes on all other keys that differ, for the record.

    Raises:
        InvalidError: A key that shapes the network differs, or a model is quantised.
    """
    where = f"{other.source} with {base.source}"
    for one in (base, other):
        if quantisation(one.config):
            raise InvalidError(
                f"{one.name} is quantised; a blend would have to be rounded to its few bits",
                where=where,
                mend="blend the 16-bit models that were quantised",
            )
    ours, theirs = dict(_leaves(base.config)), dict(_leaves(other.config))
    differing = [key for key in sorted(ours.keys() | theirs.keys()) if _differ(ours.get(key), theirs.get(key))]
    shaping = [key for key in differing if (leaf := _leaf(key)) in _SHAPING and leaf not in free]
    # A key that one of them leaves out has a default there, which only the network's code knows; shapes still tell.
    if stated := [key for key in shaping if ours.get(key) is not None and theirs.get(key) is not None]:
        told = "; ".join(f"{key} is {shown(theirs[key])}, not {shown(ours[key])}" for key in stated)
        raise InvalidError(
            f"{other.name} has another architecture than {base.name}: {told}", where=where, mend=_ONE_ARCHITECTURE
        )
    noted = [key for key in differing if _leaf(key) not in _SILENT | set(free)]
    return tuple(
        f"{key} is {shown(theirs.get(key))} in {other.name}; the result has {shown(ours.get(key))}, as {base.name}"
        for key in noted
    )


def check_heads(base: Member, other: Member) -> None:
    """A head that is tied to the embedding and one of its own do not go together.

    Raises:
        InvalidError: One model has a head of its own, the other has none.
    """
    ours, theirs = _head(base), _head(other)
    if bool(ours) == bool(theirs):
        return
    with_head, without = (base, other) if ours else (other, base)
    raise InvalidError(
        f"{with_head.name} has a head of its own ({ours or theirs}), "
        f"in {without.name} the head is tied to the embedding",
        where=f"{other.source} with {base.source}",
        mend=f"untie {without.name} first, in a stage of kind graft with `untie: true`",
    )


def check_shapes(
    ours: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, tuple[int, ...]],
    *,
    names: tuple[str, str],
    where: str,
    free_rows: Collection[str] = (),
) -> None:
    """Compare tensors by name and shape.

    Args:
        ours: Name -> shape.
        theirs: The same of another model, or of other layers.
        names: What both are called.
        where: For errors.
        free_rows: Tensors whose number of rows may differ.

    Raises:
        InvalidError: A tensor that only one of them has, or another shape.
    """
    one, other = names
    for fewer, more, lacking, having in ((theirs, ours, other, one), (ours, theirs, one, other)):
        if missing := sorted(more.keys() - fewer.keys()):
            raise InvalidError(
                f"{lacking} lacks {_count(len(missing), 'tensor')} that {having} has: {_some(missing)}",
                where=where,
                mend=_ONE_ARCHITECTURE,
            )
    unlike = [
        name
        for name, shape in sorted(ours.items())
        if shape[name in free_rows :] != theirs[name][name in free_rows :] or len(shape) != len(theirs[name])
    ]
    if unlike:
        name = unlike[0]
        rest = f"; {_count(len(unlike) - 1, 'tensor')} more differ" if len(unlike) > 1 else ""
        raise InvalidError(
            f"{name!r} is {list(ours[name])} in {one}, {list(theirs[name])} in {other}{rest}",
            where=where,
            mend=_ONE_ARCHITECTURE,
        )


def _leaves(table: Mapping[str, JSON], prefix: str = "") -> Iterator[tuple[str, JSON]]:
    """Every value of a table and of the tables in it, by dotted keys."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _differ(one: JSON, other: JSON) -> bool:
    """Whether two values mean different things: 1 and 1.0 do not, 1 and true do."""
    return one != other or isinstance(one, bool) != isinstance(other, bool)


def shown(value: JSON) -> str:
    """A value of a configuration as it is told in one line."""
    text = "absent" if value is None else encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - fits a line


def _head(one: Member) -> str:
    """Name of its head's weight; empty where there is none."""
    places = one.folder.network.places
    return next((name for name, place in places.items() if place.is_in("head")), "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{rest}"
