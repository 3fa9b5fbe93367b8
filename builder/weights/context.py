"""How long a sequence may be: rotary positions stretched, a learned table stretched or cut, and what states it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from builder.weights.architecture import shown
from builder.weights.family import family_of
from builder.weights.rope import LENGTH, MAX_LENGTH, is_anchored, rope_type, scale_rope
from builder.weights.stream import Stored
from builder.weights.stretched import Stretched
from builder.weights.tokenizer import TOKENIZER_CONFIG
from registry.canonical import pretty
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.weight_stages import RopeSettings
    from builder.weights.draft import Draft

__all__ = ["set_context"]

_KEYS: Final = (LENGTH, "n_positions", "n_ctx")
_LIMIT: Final = "model_max_length"


def set_context(draft: Draft, context: int, rope: RopeSettings | None) -> Draft:
    """Change the longest sequence, in tokens.

    The tokenizer's own limit follows where it was the old length. Rotary positions may be left unscaled although the
    context grows: that is for a model that will be trained on long rows, and noted.

    Args:
        draft: The model.
        context: New length; 0 for what ``rope`` makes it.
        rope: How rotary positions are stretched; ``None`` where they are not.

    Raises:
        InvalidError: The positions are of another kind than ``rope`` asks for, or scaled in a way that hangs on the
            length, or the family is not known.
    """
    family = family_of(draft.config, what="another context", where=draft.where)
    length = _length(draft)
    if family.positions == "learned":
        if rope is not None:
            raise InvalidError(
                "the model has a learned table of positions, no rotary ones",
                where=draft.where,
                mend="leave `rope` out and say `context`: the table is stretched",
            )
        draft, now = _set_table(draft, length, context), context
    elif rope is not None:
        if family.positions != "rotary" or draft.config.get("alibi"):
            raise InvalidError(
                f"model type {draft.config['model_type']!r} has no rotary positions that one factor scales",
                where=draft.where,
                mend="leave `rope` out",
            )
        draft, now = scale_rope(draft, rope, length=length, context=context)
    else:
        draft, now = _set_rotary(draft, length, context), context
    limit = draft.table(TOKENIZER_CONFIG)
    if limit.get(_LIMIT) != length:
        return draft
    return draft.write({TOKENIZER_CONFIG: pretty({**limit, _LIMIT: now})})


def _length(draft: Draft) -> int:
    said = {key: draft.config[key] for key in _KEYS if key in draft.config}
    lengths = [value for value in said.values() if type(value) is int and 0 < value <= MAX_LENGTH]
    if len(lengths) != len(said) or len(set(lengths)) != 1:
        raise InvalidError(
            f"the configuration does not say one length up to {MAX_LENGTH}: {shown(said)}",
            where=draft.where,
            mend=f"state {LENGTH} in config.json, and import the model again",
        )
    return lengths[0]


def _set_rotary(draft: Draft, length: int, context: int) -> Draft:
    if not is_anchored(draft.config):
        raise InvalidError(
            f"the rotary positions are scaled ({rope_type(draft.config)}), from the length that would change",
            where=draft.where,
            mend="start from the model as it was before that",
        )
    draft = draft.say(**{LENGTH: context})
    if context <= length:
        return draft
    return draft.note(f"context: positions from {length} to {context - 1} are as the model was never trained on them")


def _set_table(draft: Draft, length: int, context: int) -> Draft:
    """Another learned table; masks of the old length that older files carry are left out."""
    tables = draft.find("embedding.position")
    table = next(iter(tables.values()), None)
    if len(tables) != 1 or not isinstance(table, Stored) or table.info.shape[:1] != (length,):
        raise InvalidError(
            f"{len(tables)} tables of positions, expected one with {length} rows",
            where=draft.where,
            mend="use configuration and weights that belong together",
        )
    if context == length:
        return draft
    masks = [name for name, content in draft.find("buffer").items() if length in content.spec.shape]
    rule = f"stretched from {length} to" if context > length else f"the first of {length}, now"
    return (
        draft.remove(*masks)
        .put("overridden", {table.info.name: Stretched(stored=table, rows=context)})
        .say(**{key: context for key in _KEYS if key in draft.config})
        .note(f"context: the table of positions is {rule} {context}")
    )
