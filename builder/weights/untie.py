"""A head of its own for a model whose head is tied to the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.weights.family import family_of
from builder.weights.renamed import Renamed
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.weights.draft import Draft

__all__ = ["untie_head"]


def untie_head(draft: Draft) -> Draft:
    """Give the head weights equal to the embedding; the model computes what it did.

    Raises:
        InvalidError: The head has weights of its own already, or the family is not known.
    """
    family = family_of(draft.config, what="untying the head", where=draft.where)
    if heads := [name for name in sorted(draft.find("head")) if name.endswith(".weight")]:
        raise InvalidError(
            f"the head has weights of its own already: {heads[0]!r}", where=draft.where, mend="leave `untie` out"
        )
    embeddings = list(draft.find("embedding.token").values())
    if len(embeddings) != 1 or draft.config.get("tie_word_embeddings") is False:
        raise InvalidError(
            "the model has no head that is tied to its embedding", where=draft.where, mend="leave `untie` out"
        )
    head = Renamed(content=embeddings[0], name=family.head)
    return draft.put("added", {family.head: head}).say(tie_word_embeddings=False)
