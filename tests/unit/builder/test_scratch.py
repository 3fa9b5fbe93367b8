"""Scratch folders go at the end, and those of killed processes when the next one begins."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from builder.scratch import scratch_folder

if TYPE_CHECKING:
    from pathlib import Path

_KILLED = """
import os, sys
from pathlib import Path
from builder.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "weights").write_bytes(b"x")
    os.kill(os.getpid(), 9)
"""


def test_one_that_a_killed_process_left_goes_and_one_in_use_stays(tmp_path: Path) -> None:
    place = tmp_path / "recompute"
    subprocess.run([sys.executable, "-c", _KILLED, str(place)], check=False, timeout=60)
    (left,) = place.iterdir()
    assert (left / "weights").exists()
    (place / "older").mkdir()  # made by a version that knew no locks
    with scratch_folder(place) as first:
        assert [*place.iterdir()] == [first]
        with scratch_folder(place) as second:
            assert sorted(place.iterdir()) == sorted([first, second])
        assert [*place.iterdir()] == [first]
    assert not [*place.iterdir()]
