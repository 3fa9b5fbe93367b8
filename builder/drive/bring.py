"""Brings what a stage of a request is missing out of quarantine: a process of its own, with the build's credentials.

``python -m builder.drive.bring ERRAND VARIANT STAGE``. What is in no quarantine is left to the `dvc pull` after it.
"""

from __future__ import annotations

import sys

from builder.drive.errand import Errand
from builder.drive.inputs import missing_sources
from builder.graph import Address, build_graph
from builder.load import load
from builder.request.arrive import bring
from builder.terminal import say
from registry.errors import Error
from registry.terminal import open_store

__all__: list[str] = []


def _main(errand: str, variant: str, stage: str) -> int:
    try:
        told = Errand.from_text(errand)
        node = build_graph(load(told.root, only=variant))[Address(variant=variant, stage=stage)]
        bring(told.root, missing_sources(told.root, node), home=told.home, store=open_store(), say=say)
    except Error as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
