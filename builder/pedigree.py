"""The models that a model was made from, by the records that the index knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.digest import Digest
    from registry.index import Index

__all__ = ["ancestors"]

_MADE_FROM = frozenset({"from", "base"})


def ancestors(index: Index, artifact: Digest) -> frozenset[Digest]:
    """Weights digests of the models that an artifact descends from, itself left out.

    Args:
        index: Records of the work tree and of git.
        artifact: Digest of a model; one without a record has no known ancestors.
    """
    found: set[Digest] = set()
    seen = {artifact}
    waiting = [artifact]
    while waiting:
        for sighting in index.by_artifact(waiting.pop()):
            for one in sighting.record.inputs:
                if one.role in _MADE_FROM and one.weights_digest is not None:
                    found.add(one.weights_digest)
                    if one.digest not in seen:
                        seen.add(one.digest)
                        waiting.append(one.digest)
    return frozenset(found)
