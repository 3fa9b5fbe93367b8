"""Models whose embedding is the head, too: what an adapter says of both must be one change to one tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from builder.weights.parameters import tokens_of
from builder.weights.places import module_place, subject_at
from builder.weights.stream import are_equal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.adapters import Adapter, Part
    from builder.weights.site import Site
    from builder.weights.stream import Stored

__all__ = ["TOKEN_EMBEDDING", "one_of_two"]

TOKEN_EMBEDDING = "embedding.token"  # noqa: S105 - a component, no secret
"""The component that a head may be tied to."""

_Entry = TypeVar("_Entry")


def one_of_two(site: Site) -> Adapter:
    """The adapter without what it says twice: for a tied model PEFT may save the head's share beside the embedding's.

    Raises:
        InvalidError: It changes one of the two only, or each in its own way.
        OSError: A file cannot be read.
    """
    adapter = site.adapter
    if not site.tied:
        return adapter
    ensured = adapter.config.flag("ensure_weight_tying")
    parts = {f"{part.module}.weight": part for part in adapter.parts}
    firsts = {parameter: part.first for parameter, part in parts.items()}
    tokens = {f"{module}.weight": stored for module, stored in adapter.tokens.items()}

    def same_parts(embedding: str, head: str) -> bool:
        return ensured and _are_alike(site, parts[embedding], parts[head])

    def same_tokens(embedding: str, head: str) -> bool:
        ours, theirs = (tokens_of(site, one.removesuffix(".weight"), tokens[one]) for one in (embedding, head))
        return ours == theirs and _are_same(tokens[embedding], tokens[head])

    replaced, copies = dict(adapter.replaced), dict(adapter.copies)
    if ensured and any(map(site.is_embedding, replaced)):  # modules_to_save names the embedding only
        replaced |= {head: copies.pop(head) for head in adapter.copies if site.is_tied_head(head)}

    def same_saved(embedding: str, head: str) -> bool:
        return _are_same(replaced[embedding], replaced[head])

    def same_copies(embedding: str, head: str) -> bool:
        return _are_same(copies[embedding], copies[head])

    rows = _without_heads(site, tokens, tokens, same_tokens, alone=True)
    return replace(
        adapter,
        parts=tuple(_without_heads(site, parts, firsts, same_parts).values()),
        tokens={parameter.removesuffix(".weight"): stored for parameter, stored in rows.items()},
        replaced=_without_heads(site, replaced, replaced, same_saved),
        copies=_without_heads(site, copies, copies, same_copies, alone=True),
    )


def _without_heads(
    site: Site,
    table: Mapping[str, _Entry],
    firsts: Mapping[str, Stored],
    agree: Callable[[str, str], bool],
    *,
    alone: bool = False,
) -> dict[str, _Entry]:
    """A table of parameters without the head, which must get what the embedding gets.

    Args:
        site: The adapter and the model.
        table: Parameter -> anything.
        firsts: Parameter -> tensor to name in errors.
        agree: Whether embedding and head get the same.
        alone: Whether the embedding may be there without the head.
    """
    heads = [parameter for parameter in table if site.is_tied_head(parameter)]
    embeddings = [parameter for parameter in table if site.is_embedding(parameter)]
    for head in heads:
        if not any(agree(embedding, head) for embedding in embeddings):
            raise site.tied_error(firsts[head])
    if embeddings and not heads and not alone:
        raise site.tied_error(firsts[embeddings[0]])
    return {parameter: entry for parameter, entry in table.items() if parameter not in heads}


def _are_alike(site: Site, embedding: Part, head: Part) -> bool:
    """Whether an adapter does the same to the embedding and to the head."""
    alike = site.adapter.method.alike
    place = module_place(site, embedding)
    twin = replace(place, part=head, key=head.module, shape=place.shape[::-1], transposed=False, embedding=False)
    return alike is not None and alike(*(subject_at(site, one, one.shape) for one in (place, twin)))


def _are_same(one: Stored, other: Stored) -> bool:
    return one.info.shape == other.info.shape and are_equal(one, other)
