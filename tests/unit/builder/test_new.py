"""A variant's first manifest: from scratch, and out of a mergekit file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder import new as module
from builder.load import load
from builder.new import copy, new, new_from_mergekit
from builder.sources import folder_pin
from registry import yaml12
from registry.errors import ConflictError, InvalidError, NotFoundError, TransportError

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "ab" * 20
RECIPES = "recipes: {import: 1, pretrain: 1, sft: 1, dpo: 1, fold: 1, cast: 1, evaluate: 1}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(f"bases: {{tiny: {{hub: acme/tiny, revision: {COMMIT}}}}}\n{RECIPES}")
    return tmp_path


def merge(root: Path, text: str) -> Path:
    path = root / "merge.yml"
    path.write_text(text)
    return path


def test_a_new_manifest_passes(root: Path) -> None:
    started = new(root, "support")
    assert started.lines() == ["wrote models/support/model.yaml"]
    manifest = load(root).manifests["support"]
    assert manifest.base is not None
    assert list(manifest.stages) == ["final"]
    # Another one can start from it.
    new(root, "other", base="support:final")
    assert load(root).manifests.keys() == {"support", "other"}


def test_without_a_base_it_starts_from_what_another_variant_releases(root: Path) -> None:
    new(root, "support")
    text = (root / "models/support/model.yaml").read_text()
    (root / "params.yaml").write_text(f"bases: {{}}\n{RECIPES}")
    (root / "models/support/model.yaml").write_text(text.replace("base: tiny\n", ""))
    with pytest.raises(InvalidError):
        new(root, "third")  # that variant is broken now, and nothing was written
    assert not (root / "models/third").exists()


def test_there_must_be_something_to_start_from(root: Path) -> None:
    (root / "params.yaml").write_text(f"bases: {{}}\n{RECIPES}")
    with pytest.raises(NotFoundError) as caught:
        new(root, "support")
    assert str(caught.value) == (
        "there is no base to start from\n"
        "  where: params.yaml\n"
        "  mend: declare one under `bases:`; `varietal pin` prints its entry"
    )


def test_a_base_that_does_not_exist_leaves_nothing_behind(root: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        new(root, "support", base="tyni")
    assert caught.value.faults[0].problem == "unknown base 'tyni'"
    assert not (root / "models/support").exists()


@pytest.mark.parametrize("name", ["Bad", "bases", "a--b-", "x/y"])
def test_a_name_that_cannot_be_one_is_refused(root: Path, name: str) -> None:
    with pytest.raises(InvalidError):
        new(root, name)
    assert not (root / "models").exists()


def test_a_variant_is_never_written_over(root: Path) -> None:
    new(root, "support")
    for again in (lambda: new(root, "support"), lambda: new_from_mergekit(root, "support", root / "x")):
        with pytest.raises(ConflictError) as caught:
            again()
        assert caught.value.what == "models/support exists"


def test_a_repository_with_schemas_tells_editors_of_them(root: Path) -> None:
    (root / "schema").mkdir()
    (root / "schema/model.json").write_text("{}")
    new(root, "support")
    first, second = (root / "models/support/model.yaml").read_text().splitlines()[:2]
    assert first == "# yaml-language-server: $schema=../../schema/model.json"
    assert second == "schema: 1"
    assert (root / "models/support" / first.partition("=")[2]).resolve() == root / "schema/model.json"


COPIED = """\
# For those who stand at the counter.
schema: 1
description: >-
  The first one,
  at length.
deprecated: use another
formerly: [helper]
base: tiny  # the small one
stages:
  # one stage
  final: {kind: cast, from: base, dtype: bfloat16}
release: final
"""


def test_a_copy_keeps_everything_but_what_the_other_says_of_itself(root: Path) -> None:
    (root / "models/support").mkdir(parents=True)
    (root / "models/support/model.yaml").write_text(COPIED)
    started = copy(root, "other", "support")
    assert started.lines() == ["wrote models/other/model.yaml"]
    assert (root / "models/other/model.yaml").read_text() == COPIED.replace(
        ">-\n  The first one,\n  at length.\ndeprecated: use another\nformerly: [helper]\n",
        "Copied from support. Say what it is for.\n",
    )
    workspace = load(root)
    assert workspace.manifests["other"].stages == workspace.manifests["support"].stages


def test_what_is_not_there_cannot_be_copied(root: Path) -> None:
    new(root, "support")
    with pytest.raises(NotFoundError) as caught:
        copy(root, "other", "suport")
    assert str(caught.value) == (
        "there is no variant 'suport'\n  where: models/suport/model.yaml\n  mend: did you mean 'support'?"
    )
    assert not (root / "models/other").exists()


MERGE = f"""\
models:
- model: sources/one
  parameters: {{weight: 0.5}}
- model: acme/tiny@{COMMIT}
  parameters: {{weight: 0.5}}
merge_method: linear
dtype: bfloat16
"""


def test_a_mergekit_file_becomes_a_manifest_and_what_params_lacks(root: Path) -> None:
    (root / "sources/one").mkdir(parents=True)
    (root / "sources/one/config.json").write_text("{}")
    (root / "sources/one/model.safetensors").write_bytes(b"weights")
    started = new_from_mergekit(root, "merged", merge(root, MERGE))
    pin = folder_pin(root / "sources/one").hex
    assert started.lines() == [
        "wrote models/merged/model.yaml",
        "",
        "# add to params.yaml:",
        f"bases: {{one: {{path: sources/one, sha256: {pin}}}}}",
        "recipes: {blend: 1}",
    ]
    assert started.advice() == [
        "dtype: models are read as they are stored, and not rounded to it before they are blended"
    ]
    assert yaml12.load((root / "models/merged/model.yaml").read_text(), "x").value == {
        "schema": 1,
        "description": "Translated from merge.yml, a file of mergekit.",
        "models": {"one": "one", "tiny": "tiny"},
        "stages": {
            "merged": {
                "kind": "blend",
                "method": "linear",
                "models": {"one": 0.5, "tiny": 0.5},
                "dtype": "bfloat16",
            }
        },
        "release": "merged",
    }


def test_names_that_params_has_for_something_else_are_left_to_it(root: Path) -> None:
    other = "cd" * 20
    file = merge(root, f"models: [{{model: lab/tiny@{other}}}]\nmerge_method: passthrough\n")
    started = new_from_mergekit(root, "merged", file)
    assert started.params["bases"] == {"tiny-2": {"hub": "lab/tiny", "revision": other}}
    text = (root / "models/merged/model.yaml").read_text()
    assert "models: {tiny: tiny-2}\n" in text


def test_without_a_network_the_reader_is_told_what_to_pin(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_root: Path, source: str) -> object:
        raise TransportError("the Hub does not answer", where=source, mend="check the network")

    monkeypatch.setattr(module, "pin", unreachable)
    file = merge(root, "models: [{model: acme/chat@main+lab/tone}]\nmerge_method: passthrough\n")
    started = new_from_mergekit(root, "merged", file)
    assert started.params["bases"] == {
        "chat": {"hub": "acme/chat", "revision": "the commit that `varietal pin hub:acme/chat@main` prints"}
    }
    assert started.advice() == [
        "not pinned: run `varietal pin hub:acme/chat@main`, and write the revision that it prints",
        "not pinned: run `varietal pin hub:lab/tone`, and write the revision that it prints",
    ]
    value = yaml12.load((root / "models/merged/model.yaml").read_text(), "x").value
    assert isinstance(value, dict)
    assert value["adapters"] == {
        "tone": {
            "hub": "lab/tone",
            "revision": "the commit that `varietal pin hub:lab/tone` prints",
            "base": "chat",
        }
    }


def test_a_model_that_is_nowhere_is_refused_and_nothing_is_written(root: Path) -> None:
    file = merge(root, "models: [{model: ./sources/gone}]\nmerge_method: passthrough\n")
    with pytest.raises(NotFoundError) as caught:
        new_from_mergekit(root, "merged", file)
    assert str(caught.value) == (
        "./sources/gone is neither a folder of this repository nor organisation/name\n"
        "  where: ./sources/gone\n"
        "  mend: write its path from the root of the repository, or copy it there"
    )
    assert not (root / "models").exists()


def test_a_number_that_no_manifest_takes_is_refused_and_nothing_is_written(root: Path) -> None:
    file = merge(root, "models: [{model: lab/tiny, parameters: {weight: 5000}}]\nmerge_method: linear\n")
    with pytest.raises(InvalidError) as caught:
        new_from_mergekit(root, "merged", file)
    assert "models[0].parameters.weight: expected a number from -1000 to 1000, got 5000.0" in str(caught.value)
    file = merge(root, f"models: [{{model: {'a' * 5000}}}]\nmerge_method: passthrough\n")
    with pytest.raises(InvalidError, match="a name of 5000 characters, which is longer than any path"):
        new_from_mergekit(root, "merged", file)
    assert not (root / "models").exists()


def test_a_file_that_is_not_there(root: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        new_from_mergekit(root, "merged", root / "gone.yml")
    assert caught.value.what == "there is no such file"
