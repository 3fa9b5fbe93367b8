"""Adapters and the model that they are on: whether they belong together, and in which order they count."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.stage import Input
    from builder.weights.adapters import Adapter
    from registry.digest import Digest

__all__ = ["check_base", "check_rows", "digest_of", "order_of"]


def order_of(one: Input) -> tuple[int, Digest, str]:
    """The place that the manifest gives; else by digest, an order that no mapping can change."""
    place = one.settings.get("place", 0)
    return place if isinstance(place, int) else 0, one.digest, json.dumps(one.settings.get("weight"), sort_keys=True)


def digest_of(one: Input) -> Digest:
    """Digest of an input's weights.

    Raises:
        InvalidError: It holds no tensors.
    """
    if one.weights_digest is None:
        raise InvalidError("the artifact holds no tensors", where=one.source, mend="name a model or an adapter")
    return one.weights_digest


def check_base(adapter: Adapter, one: Input, base: Input) -> tuple[str, ...]:
    """The adapter must have been trained on this model, or on an ancestor of it; the second is noted.

    Returns:
        Notes for the record.

    Raises:
        InvalidError: It was trained on another model, or does not say on which.
    """
    trained_on, ours = _trained_on(adapter), digest_of(base)
    if trained_on == ours:
        return ()
    if trained_on in base.ancestors:
        return (f"adapter {one.name} was rebased: trained on weights {trained_on.short}, an ancestor of {base.name}",)
    raise InvalidError(
        f"adapter {one.name} has an unrelated base: it was trained on weights {trained_on}, "
        f"{base.name} has {ours} and does not descend from them",
        where=f"{one.source} into {base.source}",
        mend="fold it into the model that it was trained on or a descendant of it, or train it again on this one",
    )


def check_rows(adapter: Adapter, one: Input, base: Input, changed: Iterable[str]) -> None:
    """What an adapter does to rows of tokens needs a model whose tokens have the rows that they had in training.

    Args:
        adapter: The adapter; it belongs to the model by :func:`check_base`.
        one: The same, as an input.
        base: The model.
        changed: Tensors with a row for each token that the adapter changes.

    Raises:
        InvalidError: A stage between the two put the tokens in another order.
    """
    trained_on, name = _trained_on(adapter), min(changed, default="")
    if not name or trained_on == digest_of(base) or base.row_ancestors is None or trained_on in base.row_ancestors:
        return
    raise InvalidError(
        f"adapter {one.name} changes rows of tokens in {name!r}; it was trained on weights {trained_on.short}, and a "
        f"blend between them and {base.name} gave the tokens other rows",
        where=f"{one.source} into {base.source}",
        mend="fold it before that blend, into the model that it was trained on, or give it weight 0 there",
    )


def _trained_on(adapter: Adapter) -> Digest:
    stated = adapter.provenance.inputs if adapter.provenance is not None else ()
    by_role = {one.role: one.weights_digest for one in stated}
    found = by_role.get("base", by_role.get("from"))  # `from` is an adapter where training went on with one
    if found is None:
        raise InvalidError(
            "the adapter does not say what it was trained on",
            where=str(adapter.path),
            mend="name it under `adapters:` with its `base`, so that it is imported",
        )
    return found
