"""One stage of a smoke test: its settings cut to a few steps and rows, in the throw-away tree. A process of its own.

``python -m builder.drive.smoke_stage ROOT TREE VARIANT STAGE``
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.adapter_types.lora import AdaloraSettings
from builder.drive.smoke_tree import Records
from builder.graph import Address, build_graph
from builder.kinds import KINDS
from builder.load import load
from builder.manifest import EvaluateStage, PinnedRef, PretrainStage
from builder.reuse import find_reusable
from builder.run import run_apart
from builder.share import take_share
from builder.train_stages import TrainStage
from registry.action import Action
from registry.cli import open_store
from registry.errors import Error
from registry.history import Repository
from registry.index import Index
from registry.record import artifact_folder, artifact_record
from registry.vouched import Vouched

if TYPE_CHECKING:
    from builder.graph import Node

__all__ = ["shortened", "smoke_stage"]

_STEPS = 2
_ROWS = 4


def shortened(node: Node) -> Node:
    """The same stage with a few optimiser steps, or a few rows to measure; what is neither stays whole.

    The batch stays as it is, so that what a step takes of the device's memory is what it will take.
    """
    settings = node.settings
    match settings:
        case _ if isinstance(settings, PretrainStage | TrainStage):
            training: Any = replace(settings.train, steps=_few(settings.train.steps, _STEPS))
            adapter: Any = settings.adapter
            if isinstance(adapter, AdaloraSettings):  # its own steps must be within those
                adapter = replace(adapter, tinit=0, tfinal=0)
            settings = replace(settings, train=training, adapter=adapter)
        case EvaluateStage():
            settings = replace(settings, limit=_few(settings.limit, _ROWS))
        case _:
            pass
    return replace(node, settings=settings)


def _few(wanted: int, few: int) -> int:
    """The smaller of two counts, where 0 stands for all."""
    return min(wanted or few, few)


def smoke_stage(root: Path, tree: Path, address: Address) -> None:
    """Compute a shortened stage.

    Args:
        root: Root of the repository, whose manifests are read.
        tree: The throw-away tree, in which its inputs are.
        address: The stage.

    Raises:
        Error: As of :func:`builder.run.run_stage`.
    """
    workspace = load(root, only=address.variant)
    node = shortened(build_graph(workspace)[address])
    with Index.open(Repository(root)) as index:
        if isinstance(node.settings, PinnedRef):
            _pull(root, tree, node, index)
        else:
            believed = Vouched(Repository(root), index)
            run_apart(root, tree, workspace, node, index=Records(tree, believed), say=_say)


def _pull(root: Path, tree: Path, node: Node, index: Index) -> None:
    """A pinned release has no steps to cut: its bytes are fetched, as always."""
    action = Action(kind=node.kind, recipe=KINDS[node.kind].recipe, settings=node.action_settings(), inputs=())
    place = node.address.variant, node.address.stage
    record = find_reusable(
        root, node, action, tree / artifact_folder(*place), index=index, store=open_store(), say=_say
    )
    if record is not None:
        (tree / artifact_record(*place)).write_bytes(record.to_bytes())


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _main(root: str, tree: str, variant: str, stage: str) -> int:
    take_share(os.environ)
    try:
        smoke_stage(Path(root), Path(tree), Address(variant=variant, stage=stage))
    except Error as error:
        _say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
