"""`varietal run` whose stages compute nothing: the function of the kind alone is played, all around it is the real one.

``python -P -m tests.played run VARIANT STAGE``. What a stage gives is a function of its settings and inputs. Beside the
repository it reads ``seconds``, how long a stage takes, and leaves ``ran``, a line for the start and end of each
computation: a stage that is linked leaves none.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import builder.run
from builder.cli import main
from builder.stage import Outcome
from registry.canonical import encode

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Context

__all__: list[str] = []


def play(kind: str, context: Context[Any], *, where: str) -> Outcome:
    """What stands in the place of :func:`builder.call.call`."""
    beside = context.root.parent
    tell(beside, f"start {where}")
    seconds = beside / "seconds"
    time.sleep(float(seconds.read_text()) if seconds.exists() else 0.0)
    inputs = [[one.role, str(one.digest)] for one in context.inputs]
    (context.out / "config.json").write_bytes(b"{}")
    (context.out / "weights.bin").write_bytes(encode([kind, repr(context.settings), inputs]))
    tell(beside, f"end {where}")
    return Outcome(type="report", metrics={"figure": {"value": float(len(inputs))}})


def tell(beside: Path, line: str) -> None:
    """Add a line to ``ran``."""
    with (beside / "ran").open("a") as stream:
        stream.write(f"{line}\n")


if __name__ == "__main__":
    builder.run.call = play  # type: ignore[attr-defined]
    builder.run.check_room = lambda *_: None  # type: ignore[attr-defined]
    main()
