"""A mixture with a folder of files in it, through real DVC: built once, kept, built again when a file of it changes."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from builder.address import Address
from builder.data_folder import data_digest, folder_md5
from builder.freshness import stale
from builder.graph import build_graph
from builder.load import load
from builder.plan.digests import Digests
from builder.plan.memo import Memo
from builder.plan.repository import plan_repository
from registry.record import Record, artifact_record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Team

TONE = Address(variant="support", stage="tone")


def verdict(team: Team) -> tuple[str, tuple[str, ...]]:
    found = next(one for one in plan_repository(team.root).stages if one.address == TONE)
    return found.verdict, found.reasons


def reasons_of(team: Team) -> list[str]:
    """Why the stage is out of date; the copies of records in git, which were not made here, are another matter."""
    found = stale(team.root, build_graph(load(team.root)), [TONE])
    return [one for one in found if "/records/" not in one]


@pytest.mark.slow
def test_a_folder_is_data_as_a_file_is(fresh: Team, tmp_path: Path) -> None:
    team = fresh.copy(tmp_path / "team")
    folder = team.root / "data" / "more"
    (folder / "deep").mkdir(parents=True)
    rows = [{"instruction": "tell me of", "input": f"the {one}", "output": f"{one} is ten"} for one in ("sky", "sea")]
    (folder / "b.json").write_text(json.dumps(rows))
    line = json.dumps({"instruction": "tell me of the wheel", "output": "the wheel is one"})
    (folder / "deep" / "a.jsonl.gz").write_bytes(gzip.compress(f"{line}\n".encode(), mtime=0))
    (folder / ".hidden").write_text("not a row")
    team.edit("  likes:", "  more: {path: data/more, format: alpaca}\n  likes:")
    team.edit("data: talks, adapter", "data: {talks: 1, more: 1}, eval: {share: 0.25}, adapter")
    team.commit("Mix")
    assert verdict(team)[0] == "run"
    team.must("dvc", "repro", "models/support/dvc.yaml:tone")
    path = team.root / artifact_record("support", "tone")
    record = Record.from_bytes(path.read_bytes(), where=str(path))
    inputs = {(one.role, one.name): one for one in record.inputs}
    assert inputs["data", "more"].digest == data_digest(folder)
    assert {(one.role, str(one.settings)) for one in record.action.inputs if one.role == "data"} == {
        ("data", "{'format': 'alpaca', 'held_out': 0.25, 'weight': 1.0}"),
        ("data", "{'format': 'messages', 'held_out': 0.25, 'weight': 1.0}"),
    }
    assert record.metrics["eval_loss"]["value"] > 0
    assert any(note.startswith("more: ") for note in record.notes)
    assert verdict(team) == ("keep", ())
    assert reasons_of(team) == []
    digests = Digests(team.root, Memo(team.root))
    assert digests.sha256("data/more") == data_digest(folder)
    assert digests.folder_md5("data/more") == folder_md5(folder)

    (folder / "b.json").write_text(json.dumps(rows[:1]))
    assert verdict(team) == ("run", ("data more (data/more) changed",))
    assert reasons_of(team) == ["support:tone: data/more is not what it was built with"]
    assert "tone" in team.must("dvc", "repro", "--dry", "models/support/dvc.yaml:tone").ran
