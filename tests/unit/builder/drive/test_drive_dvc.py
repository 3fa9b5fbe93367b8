"""Commands of DVC, and what its words mean. The words are those that DVC 3.67.1 said."""

from __future__ import annotations

import sys

import pytest

from builder.drive.dvc import (
    Ending,
    addressing,
    commit,
    fetch_ending,
    pull,
    recall_ending,
    repro,
    repro_ending,
    smoke_ending,
)
from builder.edges import Address

TONE = Address(variant="support", stage="tone")
RAN = """\
Running stage 'models/support/dvc.yaml:tone':
> varietal run support tone
"""
FAILED = f"""\
{RAN}the disk is full
  where: support:tone
  mend: make room and run again
ERROR: failed to reproduce 'models/support/dvc.yaml:tone': failed to run: varietal run support tone, exited with 8
"""
BUSY = """\
ERROR: failed to reproduce 'models/support/dvc.yaml:toned': '/x/models/support/artifacts/tone' is busy, \
it is being blocked by:
  (PID 12): /x/dvc repro

If there are no processes with such PIDs, you can manually remove '/x/.dvc/tmp/rwlock' and try again.
"""
UNLOCKED = f"""\
{RAN}support:tone: adapter sha256:0
ERROR: Unable to acquire lock. Most likely another DVC process is running or was terminated abruptly. \
Check the page <https://dvc.org/doc/user-guide/troubleshooting#lock-issue> for other possible reasons.
"""
AT_IT = f"""\
{RAN}process 7 is at this stage already
  where: .varietal/work/00
  mend: wait for it, or end it
ERROR: failed to reproduce 'models/support/dvc.yaml:tone': failed to run: varietal run support tone, exited with 5
"""


def test_the_names_of_stages() -> None:
    assert addressing(TONE) == "models/support/dvc.yaml:tone"
    assert addressing(Address(variant="bases", stage="tiny")) == "bases/dvc.yaml:base@tiny"
    assert addressing(Address(variant="bases", stage="records@tiny")) == "bases/dvc.yaml:records@tiny"
    assert addressing(Address(variant="support", stage="records")) == "models/support/dvc.yaml:records"


def test_a_dvc_in_the_work_tree_is_not_taken_for_dvc() -> None:
    head = (sys.executable, "-P", "-m", "dvc", "--wait-for-lock")
    assert repro(TONE) == (*head, "repro", "--single-item", "--allow-missing", "models/support/dvc.yaml:tone")
    assert commit(TONE) == (*head, "commit", "--force", "models/support/dvc.yaml:tone")
    assert pull(["-x"]) == (*head, "pull", "--", "-x")


@pytest.mark.parametrize(
    ("code", "log", "ending"),
    [
        (0, RAN, Ending(how="ran")),
        (0, f"{RAN}a:b is this very artifact; nothing is computed\n", Ending(how="reused")),
        (0, "Stage 'x' is cached - skipping run, checking out outputs\n", Ending(how="restored")),
        (0, "Stage 'x' didn't change, skipping\nData and pipelines are up to date.\n", Ending(how="kept")),
        (255, FAILED, Ending(how="failed", exit_code=8, reason="the disk is full")),
        (255, FAILED.replace("with 8", "with -9"), Ending(how="failed", exit_code=8, reason="the disk is full")),
        (255, FAILED.replace("with 8", "with 3"), Ending(how="failed", exit_code=3, reason="the disk is full")),
        (255, "", Ending(how="failed", exit_code=8, reason="nothing was said")),
        (
            255,
            f"{RAN}ERROR: failed to reproduce 'models/support/dvc.yaml:tone': [Errno 28] No space left on device\n",
            Ending(
                how="failed",
                exit_code=8,
                reason="the disk is full; make room, then `dvc commit --force` of this stage keeps what was computed",
            ),
        ),
    ],
)
def test_how_a_stage_ended(code: int, log: str, ending: Ending) -> None:
    assert repro_ending(code, log) == ending


@pytest.mark.parametrize(("log", "how"), [(BUSY, "busy"), (AT_IT, "busy"), (UNLOCKED, "unlocked")])
def test_what_passes_is_worth_another_try(log: str, how: str) -> None:
    ending = repro_ending(255, log)
    assert (ending.how, ending.exit_code) == (how, 5)


def test_a_stage_that_failed_while_it_speaks_of_locks_has_failed() -> None:
    assert repro_ending(255, FAILED.replace("the disk is full", "x is busy, it is being blocked by y")).how == "failed"


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("ERROR: failed to pull data from the cloud - Checkout failed\nMissing cache files:\n", 2),
        ("ERROR: failed to connect to s3 (b/k) - Unable to locate credentials\n", 7),
        ("ERROR: unexpected error - [Errno 28] No space left on device: 'x'\n", 8),
        ("ERROR: unexpected error - Connection refused\n", 6),
    ],
)
def test_why_inputs_could_not_be_fetched(log: str, code: int) -> None:
    ending = fetch_ending(1, log)
    assert (ending.how, ending.exit_code) == ("failed", code)
    assert ending.reason.startswith("inputs cannot be fetched: ")


def test_a_fetch_that_meets_a_running_stage_is_tried_again() -> None:
    assert fetch_ending(1, BUSY).how == "busy"
    assert fetch_ending(0, "1 file fetched\n") == Ending(how="ran")


def test_whatever_came_of_looking_for_notes_the_stage_is_next() -> None:
    assert recall_ending(0, "") == Ending(how="ran")
    assert recall_ending(0, "one\ntwo\n") == Ending(how="ran", reason="one; two")
    assert recall_ending(1, "Traceback\nOSError: no") == Ending(
        how="ran", reason="progress notes were not looked for: OSError: no"
    )
    assert recall_ending(-9, "").reason == "progress notes were not looked for: it ended with -9"


def test_what_an_earlier_run_had_finished_was_linked() -> None:
    said = f"{RAN}support:tone: finished by an earlier run that could not show it\n"
    assert repro_ending(0, said) == Ending(how="reused")


def test_a_smoke_test() -> None:
    assert smoke_ending(0, "") == Ending(how="ran")
    assert smoke_ending(4, "bad rows\n  where: x\n") == Ending(how="failed", exit_code=4, reason="bad rows")
    assert smoke_ending(-9, "half a line") == Ending(how="failed", exit_code=8, reason="half a line")
