"""Whether locks are what the manifests ask for: every way of being stale is named."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from builder.freshness import closure, stale
from builder.graph import Address, build_graph
from builder.load import load
from builder.pipeline import pipelines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.graph import Node

TONED = Address(variant="support", stage="toned")
MANIFEST = """\
schema: 1
base: tiny
data: {talks: {path: data/talks.jsonl, format: messages}}
stages:
  tone: {kind: sft, from: base, data: talks, adapter: {rank: 4}}
  toned: {kind: fold, from: base, adapters: {tone: 1.0}}
  other: {kind: fold, from: base, adapters: {tone: 0.5}}
release: toned
checks: []
"""


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def lock(variant: str) -> str:
    """What DVC would have written after a build of everything."""
    if variant == "bases":
        return f"""\
schema: '2.0'
stages:
  base@tiny:
    cmd: varietal run bases tiny
    params:
      params.yaml:
        bases.tiny: {{path: sources/tiny, sha256: {"a" * 64}}}
        recipes.import: 1
    outs:
    - {{path: bases/tiny, md5: {"1" * 32}.dir, size: 1}}
    - {{path: bases/tiny.json, md5: {md5(b"tiny")}, size: 1}}
"""
    return f"""\
schema: '2.0'
stages:
  tone:
    cmd: varietal run support tone
    deps:
    - {{path: bases/tiny, md5: {"1" * 32}.dir, size: 1}}
    - {{path: data/talks.jsonl, md5: {md5(b"rows")}, size: 1}}
    params:
      models/support/model.yaml:
        data.talks: {{path: data/talks.jsonl, format: messages}}
        stages.tone: {{kind: sft, from: base, data: talks, adapter: {{rank: 4}}}}
      params.yaml: {{recipes.sft: 1}}
    outs:
    - {{path: models/support/artifacts/tone, md5: {"2" * 32}.dir, size: 1}}
    - {{path: models/support/artifacts/tone.json, md5: {md5(b"tone")}, size: 1}}
  toned:
    cmd: varietal run support toned
    deps:
    - {{path: bases/tiny, md5: {"1" * 32}.dir, size: 1}}
    - {{path: models/support/artifacts/tone, md5: {"2" * 32}.dir, size: 1}}
    params:
      models/support/model.yaml:
        stages.toned: {{kind: fold, from: base, adapters: {{tone: 1.0}}}}
      params.yaml: {{recipes.fold: 1}}
    outs:
    - {{path: models/support/artifacts/toned, md5: {"3" * 32}.dir, size: 1}}
    - {{path: models/support/artifacts/toned.json, md5: {md5(b"toned")}, size: 1}}
"""


def graph_of(root: Path) -> Mapping[Address, Node]:
    return build_graph(load(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository as it is after a build: texts only, no artifact anywhere."""
    texts = {
        "params.yaml": f'bases: {{tiny: {{path: sources/tiny, sha256: "{"a" * 64}"}}}}\n'
        "recipes: {import: 1, sft: 1, fold: 1}\n",
        "models/support/model.yaml": MANIFEST,
        "data/talks.jsonl": "rows",
        "bases/dvc.lock": lock("bases"),
        "models/support/dvc.lock": lock("support"),
        "bases/records/tiny.json": "tiny",
        "models/support/records/tone.json": "tone",
        "models/support/records/toned.json": "toned",
    }
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for path, text in pipelines(graph_of(tmp_path)).items():
        (tmp_path / path).write_text(text)
    return tmp_path


def reasons(root: Path) -> tuple[str, ...]:
    return stale(root, graph_of(root), [TONED])


def replace(root: Path, path: str, old: str, new: str) -> None:
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new))


def test_a_build_is_fresh_and_unbuilt_stages_beside_it_do_not_matter(root: Path) -> None:
    assert reasons(root) == ()


def test_what_a_stage_is_made_from(root: Path) -> None:
    assert [str(address) for address in closure(graph_of(root), [TONED])] == [
        "bases:tiny",
        "support:tone",
        "support:toned",
    ]


def test_defaults_that_were_taken_away_as_a_whole_are_seen_though_dvc_does_not(root: Path) -> None:
    built = "      params.yaml: {recipes.sft: 1, defaults.sft: {train: {batch: 16}}}\n"
    replace(root, "models/support/dvc.lock", "      params.yaml: {recipes.sft: 1}\n", built)
    force = "`dvc repro --force --single-item models/support/dvc.yaml:tone`"
    was = "{'train': {'batch': 16}}"
    assert reasons(root) == (f"support:tone: defaults.sft is gone, it was built with {was}: {force}",)


def test_a_changed_key(root: Path) -> None:
    replace(root, "models/support/model.yaml", "{tone: 1.0}", "{tone: 0.25}")
    then = "{'kind': 'fold', 'from': 'base', 'adapters': {'tone': 1.0}}"
    now = then.replace("1.0", "0.25")
    assert reasons(root) == (f"support:toned: stages.toned is {now}, it was built with {then}",)


def test_another_spelling_of_a_number_is_no_change(root: Path) -> None:
    replace(root, "models/support/model.yaml", "{tone: 1.0}", "{tone: 1}")
    assert reasons(root) == ()


def test_changed_data(root: Path) -> None:
    (root / "data/talks.jsonl").write_text("other rows")
    assert reasons(root) == ("support:tone: data/talks.jsonl is not what it was built with",)


def test_data_that_dvc_keeps_need_not_be_fetched(root: Path) -> None:
    tracked = f"outs:\n- md5: {md5(b'rows')}\n  size: 4\n  hash: md5\n  path: talks.jsonl\n"
    (root / "data/talks.jsonl.dvc").write_text(tracked)
    (root / "data/talks.jsonl").unlink()
    assert reasons(root) == ()
    replace(root, "data/talks.jsonl.dvc", md5(b"rows"), md5(b"other rows"))
    assert reasons(root) == ("support:tone: data/talks.jsonl is not what it was built with",)


def test_data_in_a_folder_that_was_not_fetched(root: Path) -> None:
    (root / "data.dvc").write_text("outs: []\n")
    (root / "data/talks.jsonl").unlink()
    assert reasons(root) == ("support:tone: data/talks.jsonl is not here: fetch it with `dvc pull`",)


def test_an_input_that_was_built_anew(root: Path) -> None:
    replace(root, "bases/dvc.lock", "1" * 32, "4" * 32)
    assert reasons(root) == (
        "support:tone: bases/tiny is not what it was built with",
        "support:toned: bases/tiny is not what it was built with",
    )


def test_a_stage_that_was_never_built(root: Path) -> None:
    (root / "models/support/dvc.lock").unlink()
    assert reasons(root) == ("support:tone: was never built", "support:toned: was never built")


def test_an_edited_and_a_missing_record(root: Path) -> None:
    (root / "models/support/records/tone.json").write_text("tone ")
    (root / "bases/records/tiny.json").unlink()
    assert reasons(root) == (
        "bases:tiny: bases/records/tiny.json is not there: run `varietal build bases:tiny`, which puts it back",
        (
            "support:tone: models/support/records/tone.json is not the record that was built: "
            "run `varietal build support`, which puts it back"
        ),
    )


def test_a_stale_pipeline(root: Path) -> None:
    replace(root, "models/support/dvc.yaml", "varietal run support tone\n", "varietal run support tone; true\n")
    assert reasons(root) == ("models/support/dvc.yaml is not what the manifest says: run `varietal compile`",)
