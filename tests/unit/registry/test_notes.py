"""What the notes of a release say: stages, settings, inputs, metrics, checks and sizes, against the release before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry.artifact import Artifact, FileEntry
from registry.digest import digest_bytes
from registry.gate import Judgement
from registry.notes import Before, notes_of
from registry.record import ArtifactSummary
from tests.repositories import data_input, input_from, make_record

if TYPE_CHECKING:
    from registry.record import Record


def model(*files: str) -> Artifact:
    entries = [
        FileEntry(path=f"{place}.bin", size_bytes=1024, digest=digest_bytes(name.encode()))
        for place, name in enumerate(files)
    ]
    return Artifact(type="model", files=tuple(entries), tensors=())


def variant(data: bytes = b"rows", bits: float = 1.5, *files: str, **train: object) -> dict[str, Record]:
    """Records of three stages."""
    tone = make_record(
        "support:tone",
        model("tone", data.decode(), str(train)),
        settings={"train": {"steps": 2, "schedule": "linear"} | train},
        inputs=(data_input("data/rows.jsonl", data),),
    )
    final = make_record("support:final", model(*(files or ("a", "b"))), kind="fold", inputs=(input_from(tone),))
    score = make_record(
        "support:score", kind="evaluate", inputs=(input_from(final),), metrics={"bits": {"value": bits, "against": 2.0}}
    )
    return {"tone": tone, "final": final, "score": score}


def bound(text: str = "at most 1.7") -> Judgement:
    return Judgement(stage="score", metric="bits", bound=text, value=1.5, against=2.0, passed=True, reason="")


def before(records: dict[str, Record], **bounds: str) -> Before:
    return Before(
        version="v1.0.0",
        stage="final",
        records=records,
        bounds={("score", metric): text for metric, text in bounds.items()},
    )


def test_a_first_release() -> None:
    records = variant()
    digest = records["final"].artifact.digest
    assert notes_of(records, "final", (bound(),), None) == (
        "First release",
        f"- artifact: model {digest}, 2.0 KiB in 2 files",
        f"- input data:data/rows.jsonl: {digest_bytes(b'rows')}",
        "- metric score.bits: 1.5, 2 for what it is compared with; must be at most 1.7",
    )


def test_nothing_changed_but_a_bound() -> None:
    records = variant()
    digest = records["final"].artifact.digest
    assert notes_of(records, "final", (bound("at most 9"),), before(records, bits="at most 1.7")) == (
        "Since v1.0.0",
        f"- artifact: model {digest}, 2.0 KiB in 2 files, 0 of them new, 0 B; before: 2.0 KiB",
        "- metric score.bits: 1.5 -> 1.5, 2 for what it is compared with; must be at most 9",
        "- check score.bits: at most 1.7 -> at most 9",
    )


def test_settings_inputs_metrics_and_sizes() -> None:
    old = variant()
    new = variant(b"more", 1.25, "a", "c", "d", steps=4, rank=8)
    digest = new["final"].artifact.digest
    assert notes_of(new, "final", (bound(),), before(old, bits="at most 1.7")) == (
        "Since v1.0.0",
        f"- artifact: model {digest}, 3.0 KiB in 3 files, 2 of them new, 2.0 KiB; before: 2.0 KiB",
        "- stage tone: train.rank absent -> 8",
        "- stage tone: train.steps 2 -> 4",
        "- other bytes, since what they are made from changed: final",
        f"- input data:data/rows.jsonl: {digest_bytes(b'rows')} -> {digest_bytes(b'more')}",
        "- metric score.bits: 1.5 -> 1.25, 2 for what it is compared with; must be at most 1.7",
    )


def test_stages_and_inputs_that_came_and_went() -> None:
    old = variant()
    pref = make_record("support:pref", kind="dpo", inputs=(data_input("data/likes.jsonl", b"likes"),))
    new = {"pref": pref, "final": old["final"], "score": replace(old["score"], metrics={})}
    lines = notes_of(new, "final", (), before(old, bits="at most 1.7"))
    assert "- stage pref: new, dpo" in lines
    assert "- stage tone: gone" in lines
    assert f"- input data:data/likes.jsonl: new, {digest_bytes(b'likes')}" in lines
    assert "- input data:data/rows.jsonl: no longer used" in lines
    assert "- check score.bits: at most 1.7 -> none" in lines


def test_another_kind_and_another_recipe() -> None:
    old = variant()
    tone = old["tone"]
    newer = replace(tone, action=replace(tone.action, recipe=2))
    lines = notes_of(old | {"tone": newer}, "final", (), before(old))
    assert "- stage tone: recipe 1 -> 2" in lines
    other = make_record("support:tone", kind="dpo", inputs=tone.inputs)
    assert "- stage tone: kind sft -> dpo" in notes_of(old | {"tone": other}, "final", (), before(old))


def test_the_same_weights_in_other_files() -> None:
    old = variant()
    weights = digest_bytes(b"weights")

    def with_weights(record: Record, *files: str) -> Record:
        return replace(record, artifact=replace(ArtifactSummary.of(model(*files)), weights_digest=weights))

    now = old | {"final": with_weights(old["final"], "x")}
    then = old | {"final": with_weights(old["final"], "y")}
    assert f"- weights: the same, {weights}" in notes_of(now, "final", (), before(then))


def test_what_a_record_says_makes_no_line_of_its_own() -> None:
    """A setting with a line break could forge a line, or the start of a signature."""
    records = variant(prompt="x\n-----BEGIN SSH SIGNATURE-----\n}\n", words="y" * 500)
    lines = notes_of(records, "final", (), before(variant()))
    assert all(line.startswith(("- ", "Since")) and line.isprintable() for line in lines)
    assert all(len(line) <= 403 for line in lines)
    many = variant(**{f"key{number}": number for number in range(500)})
    assert len(notes_of(many, "final", (), before(variant()))) == 201
