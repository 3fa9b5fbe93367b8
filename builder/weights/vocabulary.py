"""New tokens in a model: in its tokenizer's files, its embedding, its head and its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from builder.weights.architecture import VOCABULARY_SIZE
from builder.weights.dtypes import FLOATS
from builder.weights.extended import Extended
from builder.weights.family import has_token_rows
from builder.weights.stream import Stored
from builder.weights.tokenizer import extend_tokenizer
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weight_stages import VocabularySettings
    from builder.weights.draft import Draft

__all__ = ["extend_vocabulary"]

_EMBEDDING: Final = "embedding.token"


def extend_vocabulary(draft: Draft, settings: VocabularySettings) -> Draft:
    """Add tokens, and rows for them in every tensor that has one for each token.

    The new ids are the next free ones. Rows that the embedding has beyond the tokenizer's tokens are used first, and
    start like all new ones; rows are added where those do not suffice, up to a multiple of ``multiple``.

    Raises:
        NotFoundError: There are tokens to add, and no ``tokenizer.json``.
        InvalidError: Nothing to do, a token that is there already, no single embedding, or files that do not agree on
            the number of tokens.
    """
    tables = _tables(draft)
    old_rows = _rows(draft, tables)
    known, pieces = old_rows, dict[int, tuple[int, ...]]()
    if settings.tokens or settings.special:
        extension = extend_tokenizer(draft, plain=settings.tokens, special=settings.special)
        known, pieces = extension.known, dict(extension.pieces)
        draft = draft.write(extension.files)
    if known > old_rows:
        raise InvalidError(
            f"the tokenizer has ids up to {known - 1}, the embedding has {old_rows} rows",
            where=draft.where,
            mend="use tokenizer and weights that belong together",
        )
    needed = max(old_rows, 1 + max(pieces, default=-1))
    rows = -(-needed // settings.multiple) * settings.multiple
    if not pieces and rows == old_rows:
        raise InvalidError(
            f"vocabulary adds nothing: no tokens, and {old_rows} rows are a multiple of {settings.multiple}",
            where=draft.where,
            mend="name `tokens` or `special`, or leave `vocabulary` out",
        )
    longer = {
        name: Extended(stored=stored, rows=rows, known=known, pieces=pieces, start=settings.start, seed=settings.seed)
        for name, stored in tables.items()
    }
    unused = sum(row not in pieces for row in range(known, rows))
    note = f"vocabulary: new tokens {len(pieces)}; rows {old_rows} before, {rows} now, {unused} of them unused"
    return draft.put("overridden", longer).say(vocab_size=rows).note(note)


def _tables(draft: Draft) -> Mapping[str, Stored]:
    """The tensors with a row for each token: embedding, head and its bias; no classifier's, whose rows are labels."""
    network = draft.network
    embeddings = draft.find(_EMBEDDING)
    found = embeddings | {name: content for name, content in draft.contents.items() if has_token_rows(network, name)}
    stored = {name: one for name, one in found.items() if isinstance(one, Stored) and one.info.dtype in FLOATS}
    if len(embeddings) != 1 or len(stored) != len(found):
        raise InvalidError(
            f"{len(embeddings)} tensors of component {_EMBEDDING}, expected one of floats",
            where=draft.where,
            mend="use a causal language model with one embedding",
        )
    return stored


def _rows(draft: Draft, tables: Mapping[str, Stored]) -> int:
    """Number of rows, on which tensors and configuration must agree."""
    said = draft.config.get(VOCABULARY_SIZE)
    whole = type(said) is int  # Python takes 16.0 and true for whole numbers, transformers does not
    for name, stored in tables.items():
        if not whole or stored.info.shape[:1] != (said,):
            raise InvalidError(
                f"{name!r} is {list(stored.info.shape)}, {VOCABULARY_SIZE} is {said}",
                where=draft.where,
                mend="use configuration and weights that belong together",
            )
    strange = [name for name in draft.network.unknown if said in draft.contents[name].spec.shape]
    if strange:
        raise InvalidError(
            f"{strange[0]!r} may have a row for each token too, and is of no known component",
            where=draft.where,
            mend="extend the vocabulary with the tool that made this model",
        )
    return int(said) if isinstance(said, int) else 0
