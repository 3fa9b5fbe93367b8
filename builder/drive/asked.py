"""Which stages a build is asked for."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from builder.freshness import closure
from registry.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.graph import Address, Node

__all__ = ["asked", "named"]


def named(graph: Mapping[Address, Node], names: Sequence[str]) -> tuple[Address, ...]:
    """The stages that were asked for.

    Args:
        graph: Every stage.
        names: ``variant`` or ``variant:stage``; none for everything.

    Raises:
        NotFoundError: There is no such variant or stage.
    """
    found: list[Address] = []
    for name in names:
        variant, _, stage = name.partition(":")
        meant = [one for one in graph if one.variant == variant and stage in {"", one.stage}]
        if not meant:
            near = difflib.get_close_matches(name, [*map(str, graph), *(one.variant for one in graph)], n=1)
            raise NotFoundError(
                f"there is no {'stage' if stage else 'variant'} {name}",
                where="varietal build",
                mend=f"did you mean {near[0]}?" if near else "write VARIANT or VARIANT:STAGE, as models/ has them",
            )
        found += meant
    return tuple(found or graph)


def asked(graph: Mapping[Address, Node], names: Sequence[str]) -> tuple[Address, ...]:
    """The stages that were asked for, with all that they are made from.

    Raises:
        NotFoundError: There is no such variant or stage.
    """
    return closure(graph, named(graph, names))
