"""What a push reads and says; that it sends is shown in tests/integration/test_build.py."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from builder.drive import push
from builder.edges import Address
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

TONE = Address(variant="one", stage="tone")
LOCK = """\
schema: '2.0'
stages:
  tone:
    cmd: varietal run one tone
    outs:
    - {path: models/one/artifacts/tone, md5: 00000000000000000000000000000000.dir, size: 1}
    - {path: models/one/artifacts/tone.json, md5: '11111111111111111111111111111111', size: 1}
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "models/one/dvc.lock"
    path.parent.mkdir(parents=True)
    return path


def test_the_outputs_of_a_stage(lock: Path, tmp_path: Path) -> None:
    lock.write_text(LOCK)
    assert push.outputs_of(tmp_path, TONE) == ("0" * 32 + ".dir", "1" * 32)


@pytest.mark.parametrize(
    "torn",
    ["", "schema: '2.0'\nstages:\n  to", LOCK[:60], "".join(LOCK.splitlines(keepends=True)[:-1])],
    ids=["empty", "half", "no outputs", "one output"],
)
def test_a_lock_that_is_being_written_is_read_again(lock: Path, tmp_path: Path, torn: str) -> None:
    lock.write_text(torn)
    writer = threading.Thread(target=lambda: (time.sleep(0.15), lock.write_text(LOCK)))
    writer.start()
    assert push.outputs_of(tmp_path, TONE) == ("0" * 32 + ".dir", "1" * 32)
    writer.join()


def test_a_lock_that_stays_broken_is_an_error(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "_PAUSE_S", 0)
    lock.write_text("<<<<<<< ours\n")
    with pytest.raises(InvalidError, match=r"dvc\.lock"):
        push.outputs_of(tmp_path, TONE)
    lock.unlink()
    assert push.outputs_of(tmp_path, TONE) == ()


class RemoteNotFoundError(Exception):
    pass


class ClientAuthError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code", "what"),
    [
        (RemoteNotFoundError("x"), 2, "there is no such remote"),
        (PermissionError("no"), 7, "writing is not allowed: no"),
        (ClientAuthError("bad key"), 7, "writing is not allowed: bad key"),
        (ConnectionRefusedError("refused"), 6, "sending failed: refused"),
        (ValueError(), 6, "sending failed: ValueError"),
    ],
)
def test_foreign_errors_become_ours(error: Exception, code: int, what: str) -> None:
    found = push._narrowed(error, "store")
    assert (found.exit_code, found.what, found.where) == (code, what, "remote 'store'")
