"""`verify --recompute` makes weights again from their recorded inputs; `diff` measures what a stage changed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from builder.recompute import recompute
from registry.errors import NotFoundError, RefusedError
from registry.history import Repository
from registry.index import Index
from registry.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from builder.recompute import Recomputed
    from registry.record import Record
    from tests.team import Team


def again(team: Team, record: Record) -> tuple[Recomputed, ...]:
    store = Store(team.root.parent / "store")
    with Index.open(Repository(team.root)) as index:
        return recompute(team.root, record, index=index, store=store, say=lambda _: None)


def test_every_fold_of_a_lineage_gives_its_recorded_bytes_again(built: Team) -> None:
    answer = built.must("varietal", "verify", "support:final", "--recompute")
    toned, final = (built.record(stage).artifact.digest for stage in ("toned", "final"))
    assert answer.out.splitlines()[-2:] == [
        f"support:toned: computed again from its recorded inputs, {toned}",
        f"support:final: computed again from its recorded inputs, {final}",
    ]
    value = json.loads(built.must("varietal", "verify", "support:toned", "--recompute", "--json").out)
    row = {"ref": "support:toned", "recorded": str(toned), "got": str(toned), "holds": True, "depends_on": []}
    assert value["recomputed"] == [row]
    assert not [*(built.root / ".varietal" / "recompute").iterdir()]


def test_inputs_come_from_the_remote_where_the_work_tree_has_none(built: Team, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    built.must("git", "clone", "--quiet", str(built.root), str(clone))
    other = replace(built, root=clone)
    assert "support:final: computed again" in other.must("varietal", "verify", "support:final", "--recompute").out
    assert not (clone / "models/support/artifacts").exists()


def test_a_record_that_its_inputs_do_not_give_is_told(built: Team) -> None:
    final = built.record("final")
    lied = replace(final, artifact=built.record("toned").artifact)
    found = again(built, lied)[-1]
    assert not found.holds
    assert str(found) == (
        f"support:final: DIFFERS, {final.artifact.digest} came out, the record says {lied.artifact.digest}"
    )
    known = replace(lied, depends_on=("device",))
    assert "it depends on device" in str(again(built, known)[-1])


def test_what_cannot_be_computed_again_is_refused(built: Team) -> None:
    with pytest.raises(NotFoundError) as nothing:
        again(built, built.record("tone"))
    assert nothing.value.what == "nothing in the lineage of support:tone computes weights from weights"
    final = built.record("final")
    with pytest.raises(RefusedError) as refused:
        again(built, replace(final, action=replace(final.action, recipe=7)))
    assert refused.value.what == "recipe 7 of kind 'fold' made it, this tool has 1"


def test_a_lie_ends_with_the_code_of_a_mismatch(team: Team) -> None:
    """Someone builds other bytes under an honest record's action, with everything else in order."""
    path = team.root / "models/support/model.yaml"
    text = path.read_text()
    path.write_text(text.replace("adapters: {pref: 1.0}", "adapters: {pref: 0.5}"))
    team.must("varietal", "compile")
    team.must("dvc", "repro")
    half = team.record("final")
    one = replace(half.action, inputs=tuple(_whole(each) for each in half.action.inputs))
    forged = replace(half, action=one)
    assert forged.action.digest != half.action.digest
    found = again(team, forged)[-1]
    assert (found.holds, found.recorded) == (False, half.artifact.digest)


def _whole(each: object) -> object:
    settings = getattr(each, "settings", {})
    return replace(each, settings={**settings, "weight": 1.0}) if "weight" in settings else each  # type: ignore[type-var] # an ActionInput


def test_diff_measures_what_a_fold_changed(built: Team, tmp_path: Path) -> None:
    picture = tmp_path / "change.svg"
    answer = built.must("varietal", "diff", "support:toned", "support:final", "--svg", str(picture), "--json")
    value = json.loads(answer.out)
    assert value["before"] == str(built.record("toned").artifact.digest)
    changed = {row["component"] for row in value["rows"] if "changed" in row["changes"]}
    assert changed == {f"attention.{part}" for part in ("query", "key", "value", "output")} | {
        f"mlp.{part}" for part in ("gate", "up", "down")
    }
    assert picture.read_text().startswith("<svg ")
    folder = "models/support/artifacts/final"
    assert built.must("varietal", "diff", folder, "support:final").out == "20 tensors are the same\n"
    missing = built.call("varietal", "diff", "support:nothing", "support:final")
    assert missing.code == 2
