"""The machine's settings, made like those of a record."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from builder.alike import runner_like
from builder.runner import Runner

if TYPE_CHECKING:
    from registry.record import Record

RECORD = cast("Record", SimpleNamespace(micro_batch=4, environment={"threads": "2"}, depends_on=()))


def test_what_decides_bytes_is_that_of_the_record_and_no_tracker_hears_of_it() -> None:
    own = Runner(micro_batch=1, threads=8, processes=2, report_to=("tensorboard",))
    found = runner_like(RECORD, own, on_cpu=True)
    assert (found.micro_batch, found.threads, found.processes, found.device) == (4, 2, 1, "cpu")
    assert found.report_to == ()
