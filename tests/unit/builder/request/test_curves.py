"""A curve that a build of a request left is made from the record beside it: what lies there was written by stages."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from builder.request.harvest import _left, _named
from builder.request.names import home_of, part_of
from registry.artifact import Artifact
from registry.record import curve_file, git_record
from tests.simulator import make_record

if TYPE_CHECKING:
    from pathlib import Path

_LINES = ("step\tloss", "1\t2.5")
_LOCK = b"""\
schema: '2.0'
stages:
  tone:
    cmd: varietal run support tone
  records:
    cmd: varietal run support records
"""


def _record(root: Path, curve: tuple[str, ...]) -> str:
    record = make_record(Artifact(type="model", files=(), tensors=()), variant="support", stage="tone")
    path = root / git_record("support", "tone")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dataclasses.replace(record, curve=curve).to_bytes())
    return str(curve_file("support", "tone"))


def test_what_lies_there_is_not_read(tmp_path: Path) -> None:
    path = _record(tmp_path, _LINES)
    (tmp_path / path).write_text("step\tloss\n1\t0.0001\n")
    assert _left(tmp_path, path) == b"step\tloss\n1\t2.5\n"
    _record(tmp_path, ())
    assert _left(tmp_path, path) is None


def test_a_record_that_is_broken_or_gone_has_no_curve(tmp_path: Path) -> None:
    path = _record(tmp_path, _LINES)
    (tmp_path / git_record("support", "tone")).write_text("{}")
    assert _left(tmp_path, path) is None
    (tmp_path / git_record("support", "tone")).unlink()
    assert _left(tmp_path, path) is None


def test_a_curve_belongs_to_the_lock_as_its_record_does() -> None:
    record, curve = str(git_record("support", "tone")), str(curve_file("support", "tone"))
    assert list(_named("models/support", _LOCK)) == [record, curve]
    assert (home_of(curve), part_of(curve)) == ("models/support", "generated")
