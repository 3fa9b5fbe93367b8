"""Walks over record values: where they go, where they end, how they print."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry.artifact import Artifact, FileEntry, TensorEntry
from registry.digest import digest_bytes
from registry.index import Sighting
from registry.lineage import ancestors, ancestors_of_model, descendants, to_json, to_text
from registry.record import Renumbered
from tests.repositories import data_input, input_from, make_record

if TYPE_CHECKING:
    import pytest

    from registry.digest import Digest
    from registry.record import Record


def _artifact(name: str) -> Artifact:
    digest = digest_bytes(name.encode())
    file = FileEntry(path="model.safetensors", size_bytes=1, digest=digest)
    tensor = TensorEntry(name="a", dtype="U8", shape=(1,), file=file.path, digest=digest)
    return Artifact(type="model", files=(file,), tensors=(tensor,))


DATA = data_input("data/rows.jsonl", b"rows")
BASE = make_record("bases:tiny", _artifact("base"), kind="import")
TONE = make_record("support:tone", _artifact("tone"), inputs=(input_from(BASE), DATA))
TONED = make_record(
    "support:toned", _artifact("toned"), kind="fold", inputs=(input_from(BASE), input_from(TONE, "adapter"))
)
OTHER = make_record("other:final", _artifact("other"), inputs=(input_from(TONED), DATA))
ALL = (BASE, TONE, TONED, OTHER)


def made(digest: Digest) -> list[Record]:
    return [record for record in ALL if record.artifact.digest == digest]


def used(digest: Digest) -> list[Record]:
    return [record for record in ALL if any(one.digest == digest for one in record.inputs)]


class Seen:
    """What an index would answer."""

    def by_artifact(self, digest: Digest) -> tuple[Sighting, ...]:
        return tuple(Sighting(record=record, commit="", path="") for record in made(digest))


def _short(digest: Digest) -> str:
    return f"sha256:{digest.short}"


def test_the_ancestors_of_an_artifact_as_a_tree() -> None:
    base, tone, toned = (_short(record.artifact.digest) for record in (BASE, TONE, TONED))
    assert to_text(ancestors(TONED, made)).splitlines() == [
        f"support:toned  fold -> model  {toned}",
        f"├─ from  bases:tiny  import -> model  {base}",
        f"└─ adapter  support:tone  sft -> model  {tone}",
        f"   ├─ from  bases:tiny  import -> model  {base}",
        f"   └─ data  data:data/rows.jsonl  {_short(DATA.digest)}",
    ]


def test_what_was_shown_is_not_spelt_out_again() -> None:
    again = make_record("other:again", _artifact("again"), inputs=(input_from(TONE), input_from(TONED)))
    lines = to_text(ancestors(again, made)).splitlines()
    assert lines[-1] == f"   └─ adapter  support:tone  sft -> model  {_short(TONE.artifact.digest)}  (above)"
    assert len(lines) == 7


def test_the_descendants_of_a_data_set() -> None:
    lineage = descendants(DATA.digest, "data/rows.jsonl", used)
    assert [node.name for node in lineage.nodes.values()] == [
        "data/rows.jsonl",
        "support:tone",
        "other:final",
        "support:toned",
    ]
    assert to_text(lineage).splitlines() == [
        f"data/rows.jsonl  {_short(DATA.digest)}",
        f"├─ data  support:tone  sft -> model  {_short(TONE.artifact.digest)}",
        f"│  └─ adapter  support:toned  fold -> model  {_short(TONED.artifact.digest)}",
        f"│     └─ from  other:final  sft -> model  {_short(OTHER.artifact.digest)}",
        f"└─ data  other:final  sft -> model  {_short(OTHER.artifact.digest)}",
    ]


def test_of_several_records_the_named_one_is_followed() -> None:
    copy = replace(TONE, variant="copy", inputs=())
    lineage = ancestors(TONED, lambda digest: [copy, *made(digest)] if digest == TONE.artifact.digest else made(digest))
    assert lineage.nodes[TONE.artifact.digest].record == TONE
    lineage = ancestors(TONED, lambda digest: [copy] if digest == TONE.artifact.digest else made(digest))
    assert lineage.nodes[TONE.artifact.digest].record == copy


def test_a_walk_ends_where_no_record_explains() -> None:
    lineage = ancestors(TONED, lambda _: [])
    assert [node.record for node in lineage.nodes.values()] == [TONED, None, None]
    assert to_json(lineage) == {
        "start": str(TONED.artifact.digest),
        "nodes": [
            {
                "digest": str(TONED.artifact.digest),
                "name": "support:toned",
                "kind": "fold",
                "type": "model",
                "next": [
                    {"role": "from", "digest": str(BASE.artifact.digest)},
                    {"role": "adapter", "digest": str(TONE.artifact.digest)},
                ],
            },
            {"digest": str(BASE.artifact.digest), "name": "bases:tiny", "kind": None, "type": None, "next": []},
            {"digest": str(TONE.artifact.digest), "name": "support:tone", "kind": None, "type": None, "next": []},
        ],
    }


def test_a_record_that_claims_to_be_its_own_ancestor_ends_the_walk() -> None:
    loop = replace(TONE, inputs=(input_from(TONE),))
    assert len(ancestors(loop, lambda _: [loop]).nodes) == 1
    assert to_text(ancestors(loop, lambda _: [loop])).endswith("(above)")


def test_a_long_line_of_ancestors() -> None:
    line = [make_record("a:s0", _artifact("0"))]
    for place in range(1, 3000):
        line.append(make_record(f"a:s{place}", _artifact(str(place)), inputs=(input_from(line[-1]),)))
    by_digest = {record.artifact.digest: record for record in line}
    lineage = ancestors(line[-1], lambda digest: [by_digest[digest]])
    assert len(lineage.nodes) == 3000
    assert to_text(lineage).count("\n") == 2999


def test_the_models_that_a_model_was_made_from() -> None:
    weights = {record.artifact.weights_digest for record in (BASE, TONED)}
    assert ancestors_of_model(Seen(), OTHER.artifact.digest) == weights
    assert ancestors_of_model(Seen(), TONED.artifact.digest) == {BASE.artifact.weights_digest}
    assert ancestors_of_model(Seen(), BASE.artifact.digest) == frozenset()


def test_a_model_whose_layers_have_other_numbers_descends_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Renumbered(digest=BASE.artifact.digest, what="layers")
    monkeypatch.setattr(f"{__name__}.ALL", (BASE, TONE, replace(TONED, renumbered=(lost,)), OTHER))
    assert ancestors_of_model(Seen(), TONED.artifact.digest) == frozenset()
    assert ancestors_of_model(Seen(), OTHER.artifact.digest) == {TONED.artifact.weights_digest}


def test_a_model_whose_tokens_have_other_rows_is_an_ancestor_but_for_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    third = make_record("bases:third", _artifact("third"), kind="import")
    inputs = (input_from(BASE, "model"), input_from(third, "model"), input_from(BASE, "against"))
    lost = (Renumbered(digest=third.artifact.digest, what="tokens"),)
    mixed = replace(make_record("a:mixed", _artifact("mixed"), kind="blend", inputs=inputs), renumbered=lost)
    after = make_record("a:after", _artifact("after"), kind="cast", inputs=(input_from(mixed),))
    monkeypatch.setattr(f"{__name__}.ALL", (BASE, third, mixed, after))
    both = {BASE.artifact.weights_digest, third.artifact.weights_digest}
    assert ancestors_of_model(Seen(), after.artifact.digest) == {*both, mixed.artifact.weights_digest}
    assert ancestors_of_model(Seen(), after.artifact.digest, rows=True) == {
        BASE.artifact.weights_digest,
        mixed.artifact.weights_digest,
    }
