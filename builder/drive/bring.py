"""Brings what a stage of a request is missing out of quarantine: a process of its own, with the build's credentials.

``python -m builder.drive.bring ROOT VARIANT STAGE``. What is in no quarantine is left to `dvc pull`, which comes next.
"""

from __future__ import annotations

import sys
from pathlib import Path

from builder.drive.inputs import missing_sources
from builder.graph import Address, build_graph
from builder.load import load
from builder.request.arrive import bring
from builder.terminal import say
from registry.errors import Error
from registry.terminal import open_store

__all__: list[str] = []


def _main(root: str, variant: str, stage: str) -> int:
    try:
        node = build_graph(load(Path(root), only=variant))[Address(variant=variant, stage=stage)]
        bring(Path(root), missing_sources(Path(root), node), store=open_store(), say=say)
    except Error as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
