"""`verify --recompute` makes weights again from their recorded inputs; `diff` measures what changed.

What a record says of the bytes is held against them, and what could not be computed again is named.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from builder import recompute as module
from builder.recompute import recompute
from registry.action import ActionInput
from registry.digest import digest_bytes
from registry.errors import InvalidError, MachineError, NotFoundError
from registry.history import Repository
from registry.index import Index
from registry.lineage import ancestors_of_model
from registry.record import ComponentChange, Record, Renumbered, git_record
from registry.store import Store
from registry.vouched import Vouched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from builder.proof import Recomputed, StageProof
    from builder.stage import Context, Outcome
    from tests.team import Team


def again(team: Team, record: Record) -> Recomputed:
    store = Store(team.root.parent / "store")
    with Index.open(Repository(team.root)) as index:
        return recompute(team.root, record, index=index, store=store, say=lambda _: None)


def last(team: Team, record: Record) -> StageProof:
    return again(team, record).stages[-1]


def differing(team: Team, record: Record) -> list[str]:
    row = last(team, record)
    assert row.verdict == ("differs" if row.mismatches else "same")
    return [str(one) for one in row.mismatches]


def test_every_fold_of_a_lineage_gives_its_recorded_bytes_again(built: Team) -> None:
    answer = built.must("varietal", "verify", "support:final", "--recompute")
    tiny = Record.from_bytes((built.root / "bases/records/tiny.json").read_bytes(), where="tiny").artifact.digest
    toned, final = (built.record(stage).artifact.digest for stage in ("toned", "final"))
    assert answer.out.splitlines()[-6:] == [
        f"bases:tiny: computed again from its recorded inputs, {tiny}",
        "support:tone: rests on its record: a training is done again with --trainings only",
        f"support:toned: computed again from its recorded inputs, {toned}",
        "support:pref: rests on its record: a training is done again with --trainings only",
        f"support:final: computed again from its recorded inputs, {final}",
        "3 of 5 stages proven; the rest rest on their records",
    ]
    value = json.loads(built.must("varietal", "verify", "support:toned", "--recompute", "--json").out)
    found = value["recomputed"]
    assert (found["proven"], found["of"]) == (2, 3)
    assert found["stages"][1:] == [
        {
            "ref": "support:tone",
            "kind": "sft",
            "verdict": "recorded",
            "reason": "a training is done again with --trainings only",
            "recorded": str(built.record("tone").artifact.digest),
            "got": None,
            "differs": [],
            "depends_on": [],
        },
        {
            "ref": "support:toned",
            "kind": "fold",
            "verdict": "same",
            "reason": None,
            "recorded": str(toned),
            "got": str(toned),
            "differs": [],
            "depends_on": [],
        },
    ]
    assert json.loads(built.must("varietal", "verify", "support:toned", "--json").out)["recomputed"] is None
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
    row = last(built, lied)
    assert row.verdict == "differs"
    told = f"artifact.digest is {final.artifact.digest}, the record says {lied.artifact.digest}"
    assert str(row) == f"support:final: DIFFERS: {told}"
    excused = last(built, replace(lied, depends_on=("device",)))  # the word of the record excuses nothing
    assert excused.verdict == "differs"
    assert str(excused) == f"support:final: DIFFERS: {told}; depends_on is nothing, the record says device"


def depending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stage say of its bytes that they depend on the machine."""
    ask = module.call

    def call(kind: str, context: Context[Any], *, where: str) -> Outcome:
        return replace(ask(kind, context, where=where), depends_on=("device", "versions"))

    monkeypatch.setattr(module, "call", call)


def test_bytes_that_depend_on_the_machine_prove_nothing(built: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    depending(monkeypatch)
    final = built.record("final")
    honest = replace(final, depends_on=("versions", "device"))
    other = replace(honest, artifact=built.record("toned").artifact)
    assert last(built, honest).verdict == "same"
    found = again(built, other)
    row = found.stages[-1]
    assert row.verdict == "undecided"
    assert str(row) == (
        f"support:final: UNDECIDED: this machine gives {final.artifact.digest}, the record says "
        f"{other.artifact.digest}; it depends on device and versions"
    )
    # toned's record is silent on what this machine depends on: that is told of it, too
    assert found.lines()[-1] == "0 of 5 stages proven, 2 differ, 1 undecided; the rest rest on their records"
    silent = last(built, replace(other, depends_on=()))
    assert silent.verdict == "differs"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda one: replace(one, metrics={"kl": {"value": 0.0}}),
            ["metrics.kl.value is absent, the record says 0"],
        ),
        (
            lambda one: replace(one, artifact=replace(one.artifact, listing=digest_bytes(b"x"))),
            ["artifact.listing is {listing}, the record says " + str(digest_bytes(b"x"))],
        ),
        (
            lambda one: replace(one, artifact=replace(one.artifact, weights_digest=digest_bytes(b"x"), size_bytes=1)),
            [
                "artifact.weights_digest is {weights}, the record says " + str(digest_bytes(b"x")),
                "artifact.size_bytes is {size}, the record says 1",
            ],
        ),
        (
            lambda one: replace(one, renumbered=(Renumbered(digest=digest_bytes(b"x"), what="layers"),)),
            [f"renumbered is nothing, the record says layers of {digest_bytes(b'x')}"],
        ),
        (
            lambda one: replace(one, artifact=replace(one.artifact, type="adapter")),
            ["artifact.type is model, the record says adapter"],
        ),
        (
            lambda one: replace(
                one,
                inputs=tuple(replace(each, weights_digest=digest_bytes(b"x")) for each in one.inputs),
            ),
            [
                f"inputs[{place}].weights_digest is {{input{place}}}, the record says {digest_bytes(b'x')}"
                for place in (0, 1)
            ],
        ),
    ],
)
def test_all_that_a_record_says_of_the_bytes_is_compared(
    built: Team, edit: Callable[[Record], Record], said: list[str]
) -> None:
    final = built.record("final")
    known = {
        "listing": final.artifact.listing,
        "weights": final.artifact.weights_digest,
        "size": final.artifact.size_bytes,
        "input0": final.inputs[0].weights_digest,
        "input1": final.inputs[1].weights_digest,
    }
    if "type" in said[0]:  # the first input of what follows is not looked for: only the artifact's own fields lie
        assert said[0] in differing(built, edit(final))
    else:
        assert differing(built, edit(final)) == [one.format(**known) for one in said]


def test_a_false_map_of_components_is_told(built: Team) -> None:
    final = built.record("final")
    lie = ComponentChange(component="lie", change="kept", layers="", tensors=999, by="")
    (told,) = differing(built, replace(final, components=(lie,)))
    assert told.startswith("components is attention.key layers 0-1 added by adapter sha256:")
    assert told.endswith(", the record says lie kept by nothing (999 tensors)")
    names = {one.name: f"other-{one.name}" for one in final.inputs}
    renamed = replace(
        final,
        inputs=tuple(replace(one, name=names[one.name], source="other:thing") for one in final.inputs),
        components=tuple(replace(one, by=names.get(one.by, one.by)) for one in reversed(final.components)),
    )
    assert last(built, renamed).verdict == "same"  # names and the order of rows are the manifest's business


def test_inputs_that_were_never_used_are_told(built: Team) -> None:
    final = built.record("final")
    other = ActionInput(role="adapter", digest=final.artifact.digest, settings={"weight": 3.0})
    more = replace(final, action=replace(final.action, inputs=(*final.action.inputs, other)))
    told = f"inputs is adapter {final.artifact.digest} by its action, the record says nothing more"
    assert differing(built, more) == [told]
    assert last(built, more).got is None
    fewer = replace(final, inputs=final.inputs[:1])
    assert differing(built, fewer)[0].endswith("the record says nothing more")
    both = replace(
        final,
        action=replace(final.action, inputs=(*final.action.inputs, replace(other, role="against"))),
        inputs=(*final.inputs, replace(final.inputs[0], role="against", digest=final.artifact.digest)),
    )
    weights = f"inputs[2].weights_digest is {final.artifact.weights_digest}"
    assert [one.partition(",")[0] for one in differing(built, both)] == [weights, "inputs is of no use to a fold"]


def test_what_cannot_be_computed_again_is_named(built: Team) -> None:
    final = built.record("final")
    older = last(built, replace(final, action=replace(final.action, recipe=7)))
    assert (older.verdict, older.reason) == (
        "undecided",
        "recipe 7 of kind 'fold' made it, this tool has 1; a tool that has 7 can tell",
    )
    unknown = replace(final.inputs[1], digest=digest_bytes(b"x"), source="other:thing")
    lost = replace(final, inputs=(final.inputs[0], unknown))
    rows = again(built, lost).stages
    assert [(one.ref, one.reason) for one in rows if not one.kind] == [
        ("other:thing", "no record here says how it was made")
    ]


def test_a_lineage_without_anything_to_compute(team: Team) -> None:
    (team.root / "sources/tiny/config.json").write_text("{}")  # the base is not what was pinned any more
    with pytest.raises(NotFoundError) as nothing:
        again(team, team.record("tone"))
    pin = Record.from_bytes((team.root / "bases/records/tiny.json").read_bytes(), where="x").action.settings["sha256"]
    assert str(nothing.value) == (
        "nothing in the lineage of support:tone can be computed again (bases:tiny: what it was imported from is not in "
        f"this repository as it was pinned ({pin}); support:tone: a training is done again with --trainings only)\n"
        "  where: support:tone\n"
        "  mend: verify it without --recompute"
    )


def test_a_stage_that_changes_nothing_does_not_hide_what_it_starts_from(built: Team) -> None:
    """Its artifact is its input: the stage that made that one is looked at, too."""
    toned, tone = built.record("toned"), built.record("tone")
    start = ActionInput(role="from", digest=toned.artifact.digest)
    idle = ActionInput(role="adapter", digest=tone.artifact.digest, settings={"weight": 0.0})
    kept = tuple(replace(one, change="kept", by="") for one in toned.components if one.change == "kept")
    through = replace(
        toned,
        stage="through",
        action=replace(toned.action, inputs=(start, idle)),
        inputs=(
            replace(
                toned.inputs[0], digest=start.digest, weights_digest=toned.artifact.weights_digest, source=toned.ref
            ),
            toned.inputs[1],
        ),
        components=kept,
    )
    assert [one.ref for one in again(built, through).stages] == [
        "bases:tiny",
        "support:tone",
        "support:toned",
        "support:through",
    ]


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("cast", {}, "dtype: missing setting 'dtype'"),
        ("blend", {}, "dtype: missing setting 'dtype'"),
        ("cast", {"dtype": None, "targets": None}, "dtype: expected"),
        ("cast", {"dtype": "float32", "targets": None, "where": 1}, "where: unknown setting 'where'"),
        ("cast", {"dtype": "float32", "targets": None, "from_": "x"}, "from_: unknown setting 'from_'"),
        ("fold", {"table": 1}, "table: unknown setting 'table'"),
    ],
)
def test_an_edited_action_is_refused(built: Team, kind: str, settings: dict[str, Any], said: str) -> None:
    final = built.record("final")
    start = tuple(one for one in final.action.inputs if one.role == "from")
    edited = replace(
        final,
        action=replace(final.action, kind=kind, recipe=1, settings=settings, inputs=start),
        inputs=final.inputs[:1],
    )
    with pytest.raises(InvalidError) as refused:
        again(built, edited)
    assert f"support:final: {said}" in str(refused.value)


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
    found = last(team, forged)
    assert (found.verdict, found.recorded) == ("differs", half.artifact.digest)


def _whole(each: ActionInput) -> ActionInput:
    return replace(each, settings={**each.settings, "weight": 1.0}) if "weight" in each.settings else each


def plant(team: Team, record: Record) -> None:
    """Let a record be what git and DVC's lock say."""
    path = team.root / git_record(record.variant, record.stage)
    old, new = path.read_bytes(), record.to_bytes()
    from registry.lock import content_md5  # noqa: PLC0415

    lock = team.root / f"models/{record.variant}/dvc.lock"
    text = lock.read_text()
    assert content_md5(old) in text
    lock.write_text(text.replace(content_md5(old), content_md5(new)))
    path.write_bytes(new)


def test_the_exit_code_tells_what_was_found(team: Team) -> None:
    final = team.record("final")
    plant(team, replace(final, metrics={"kl": {"value": 0.0}}))
    wrong = team.call("varietal", "verify", "support:final", "--recompute")
    assert wrong.code == 3
    assert "3 of 5 stages proven" not in wrong.out
    assert wrong.out.splitlines()[-1] == "2 of 5 stages proven, 1 differ; the rest rest on their records"
    assert "1 of 5 stages do not give what their records say" in wrong.err
    plant(team, replace(final, action=replace(final.action, recipe=7)))
    open_ = team.call("varietal", "verify", "support:final", "--recompute", "--json")
    assert open_.code == 1
    assert json.loads(open_.out)["recomputed"]["stages"][-1]["verdict"] == "undecided"
    assert (
        "of 1 of 5 stages it cannot be told here whether their records are right\n"
        "  where: support:final\n"
        "  mend: verify it where it was built (`varietal show` says on what), with the same versions and this tool\n"
    ) in open_.err


def test_a_branch_that_was_never_merged_says_nothing_of_a_lineage(team: Team) -> None:
    final = team.record("final")
    base = team.record("tone").inputs[0]
    tiny = Record.from_bytes((team.root / "bases/records/tiny.json").read_bytes(), where="x")
    evil = replace(final, variant="evil", stage="final", artifact=tiny.artifact)
    team.must("git", "checkout", "-q", "-b", "evil")
    path = team.root / git_record("evil", "final")
    path.parent.mkdir(parents=True)
    path.write_bytes(evil.to_bytes())
    team.must("git", "add", "--force", str(path))
    team.must("git", "commit", "--quiet", "--message", "evil")
    team.must("git", "checkout", "-q", "-")
    assert not path.exists()
    repository = Repository(team.root)
    with Index.open(repository) as index:
        assert len(ancestors_of_model(index, base.digest)) > 0  # the index knows every ref
        assert ancestors_of_model(Vouched(repository, index), base.digest) == frozenset()
    assert next(one.ref for one in again(team, final).stages) == "bases:tiny"
    team.edit("  final:", "  wrong: {kind: fold, from: base, adapters: {pref: 1.0}}\n  final:")
    refused = team.call("varietal", "run", "support", "wrong")
    assert refused.code == 4
    assert "adapter pref has an unrelated base" in refused.err
    team.must("git", "merge", "--quiet", "--no-edit", "evil")
    with Index.open(repository) as index:
        assert ancestors_of_model(Vouched(repository, index), base.digest)


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(
    built: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1))
    monkeypatch.setattr(module, "call", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(MachineError, match=r"^1 bytes are free, the stage may need \d+"):
        again(built, built.record("final"))


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
    assert not [*(built.root / ".varietal" / "opened").iterdir()]


def test_diff_believes_no_listing(built: Team, tmp_path: Path) -> None:
    folder = tmp_path / "tampered"
    shutil.copytree(built.root / "models/support/artifacts/final", folder)
    shard = sorted(folder.glob("*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-8:] = b"\x00\x3f" * 4
    shard.chmod(0o644)
    shard.write_bytes(bytes(data))
    answer = built.call("varietal", "diff", str(folder), "support:final")
    assert (answer.code, answer.out) == (3, "")
    assert f"{shard.name} has sha256:" in answer.err


def test_trainings_are_proven_on_the_machine_that_did_them(built: Team) -> None:
    answer = built.must("varietal", "verify", "support:final", "--recompute", "--trainings")
    assert answer.out.splitlines()[-1] == "5 of 5 stages proven"
    assert "support:pref: computed again from its recorded inputs" in answer.out


def test_a_training_of_another_machine_is_left_undecided(built: Team) -> None:
    record = built.record("tone")
    other = replace(record, device="NVIDIA H100", environment={**record.environment, "torch": "2.0.0"})
    row = trained_again(built, other)
    assert row.verdict == "undecided"
    assert "torch 2.0.0, here" in row.reason or "no GPU" in row.reason
    older = replace(record, environment={**record.environment, "torch": "2.0.0"})
    assert f"torch 2.0.0, here {record.environment['torch']}" in trained_again(built, older).reason


def test_a_false_record_of_a_training_is_told(built: Team) -> None:
    record = built.record("tone")
    row = trained_again(built, replace(record, metrics={**record.metrics, "train_loss": {"value": 0.5}}))
    assert row.verdict == "differs"
    assert [one.field for one in row.mismatches] == ["metrics.train_loss.value"]


def test_rows_that_are_no_longer_there_are_named(built: Team, tmp_path: Path) -> None:
    team = built.copy(tmp_path / "team")
    record = team.record("tone")
    source = next(one.source for one in record.inputs if one.role == "data")
    path = team.root / source.removeprefix("data:")
    path.write_bytes(path.read_bytes() + path.read_bytes())
    with pytest.raises(NotFoundError) as caught:
        trained_again(team, record)
    assert caught.value.where == source.removeprefix("data:")


def trained_again(team: Team, record: Record) -> StageProof:
    store = Store(team.root.parent / "store")
    with Index.open(Repository(team.root)) as index:
        found = recompute(team.root, record, index=index, store=store, say=lambda _: None, trainings=True)
    return found.stages[-1]
