"""The last stage: records copied into git, byte for byte, whole or not at all."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from builder.records import copy_records
from registry.artifact import Artifact
from registry.errors import InvalidError, NotFoundError
from registry.record import artifact_record, curve_file, git_record
from tests.simulator import make_record

if TYPE_CHECKING:
    from pathlib import Path


def put(root: Path, variant: str, stage: str, named: str = "", curve: tuple[str, ...] = ()) -> bytes:
    empty = Artifact(type="model", files=(), tensors=())
    record = dataclasses.replace(make_record(empty, variant=variant, stage=named or stage), curve=curve)
    path = root / artifact_record(variant, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record.to_bytes())
    return record.to_bytes()


@pytest.mark.parametrize("variant", ["support", "bases"])
def test_records_are_copied_byte_for_byte(tmp_path: Path, variant: str) -> None:
    one, two = put(tmp_path, variant, "one"), put(tmp_path, variant, "two")
    touched = copy_records(tmp_path, variant, ["one", "two"], prune=False)
    assert touched == (str(git_record(variant, "one")), str(git_record(variant, "two")))
    assert (tmp_path / git_record(variant, "one")).read_bytes() == one
    assert (tmp_path / git_record(variant, "two")).read_bytes() == two
    assert copy_records(tmp_path, variant, ["one", "two"], prune=False) == ()


def test_the_curve_of_a_training_lies_beside_its_record(tmp_path: Path) -> None:
    lines = ("step\tloss", "1\t2.5", "2\t1.25")
    put(tmp_path, "support", "one", curve=lines)
    assert copy_records(tmp_path, "support", ["one"], prune=True) == (
        "models/support/records/one.json",
        "models/support/records/one.tsv",
    )
    assert (tmp_path / curve_file("support", "one")).read_text() == "step\tloss\n1\t2.5\n2\t1.25\n"
    put(tmp_path, "support", "one")
    put(tmp_path, "support", "two", curve=lines)
    copy_records(tmp_path, "support", ["one", "two"], prune=True)
    assert not (tmp_path / curve_file("support", "one")).exists()
    touched = copy_records(tmp_path, "support", ["one"], prune=True)
    assert touched == ("models/support/records/two.json", "models/support/records/two.tsv")


def test_the_record_of_a_stage_that_is_gone_goes_when_asked(tmp_path: Path) -> None:
    put(tmp_path, "support", "one")
    put(tmp_path, "support", "two")
    copy_records(tmp_path, "support", ["one", "two"], prune=True)
    assert copy_records(tmp_path, "support", ["one"], prune=False) == ()
    assert copy_records(tmp_path, "support", ["one"], prune=True) == ("models/support/records/two.json",)
    assert not (tmp_path / git_record("support", "two")).exists()


def test_a_missing_record_copies_nothing(tmp_path: Path) -> None:
    put(tmp_path, "support", "one")
    with pytest.raises(NotFoundError) as caught:
        copy_records(tmp_path, "support", ["one", "two"], prune=True)
    assert str(caught.value) == (
        "the record is not there\n"
        "  where: models/support/artifacts/two.json\n"
        "  mend: run `varietal build support`, which fetches or builds it"
    )
    assert not (tmp_path / git_record("support", "one")).exists()


def test_the_record_of_another_stage_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "support", "one", named="two")
    with pytest.raises(InvalidError) as caught:
        copy_records(tmp_path, "support", ["one"], prune=False)
    assert caught.value.what == "this is the record of support:two"
