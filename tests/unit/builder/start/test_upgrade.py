"""Recipes older and newer than the tool's: what is told, what is refused, what an upgrade writes and reruns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from builder import kinds
from builder.load import load
from builder.start import recipes
from builder.start import upgrade as module
from builder.start.recipes import revisions
from builder.start.upgrade import check_recipes, upgrade, write_upgrade
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

PARAMS = """\
# what all share
bases: {}
recipes:   # raise with care
  pretrain: 1
  sft: 1   # the voice
  fold: 1
  cast: 1
  evaluate: 1
defaults: {}
"""
SUPPORT = """\
schema: 1
data:
  prose: {path: prose.jsonl, format: text}
stages:
  grown: {kind: pretrain, data: prose, network: {layers: 1, hidden_size: 8, heads: 2}, train: {steps: 1, max_length: 8}}
  tone: {kind: sft, from: grown, data: prose, adapter: {rank: 2}, train: {steps: 1, loss_on: all}}
  toned: {kind: fold, from: grown, adapters: {tone: 1.0}}
release: toned
"""
SHOP = """\
schema: 1
base: {variant: support, stage: toned}
stages:
  final: {kind: cast, from: base, dtype: bfloat16}
release: final
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of before, under a tool whose sft and cast mean something newer."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "prose.jsonl").write_text('{"text": "a"}\n')
    for name, text in {"support": SUPPORT, "shop": SHOP}.items():
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.yaml").write_text(text)
    newer = {
        **kinds.KINDS,
        "sft": replace(kinds.KINDS["sft"], recipe=3),
        "cast": replace(kinds.KINDS["cast"], recipe=2),
    }
    monkeypatch.setattr(recipes, "KINDS", newer)
    monkeypatch.setattr(module, "KINDS", newer)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_upgrade_says_what_it_reruns_and_keeps_the_text(root: Path) -> None:
    change = upgrade(root, ())
    assert [(one.kind, one.pinned, one.tool) for one in change.raised] == [("sft", 1, 3), ("cast", 1, 2)]
    assert [*map(str, change.rerun.run)] == ["shop:final", "support:tone"]
    assert [*map(str, change.rerun.maybe)] == ["support:toned"]
    assert (root / "params.yaml").read_text() == PARAMS
    write_upgrade(root, change)
    text = (root / "params.yaml").read_text()
    expected = PARAMS.replace("sft: 1 ", "sft: 3 ").replace("cast: 1\n", "cast: 2\n")
    added = "".join(f"  {kind}: 1\n" for kind in kinds.KINDS if f"  {kind}: " not in PARAMS)
    assert text == expected.replace("defaults:", f"{added}defaults:")
    assert not upgrade(root, ()).raised
    assert not upgrade(root, ()).added
    load(root)


def test_only_the_kinds_that_are_named_move(root: Path) -> None:
    change = upgrade(root, ["cast"])
    assert [one.kind for one in change.raised] == ["cast"]
    assert change.rerun.maybe == ()
    write_upgrade(root, change)
    assert (root / "params.yaml").read_text() == PARAMS.replace("cast: 1", "cast: 2")
    with pytest.raises(NotFoundError) as caught:
        upgrade(root, ["sfd"])
    assert str(caught.value) == "there is no kind 'sfd'\n  where: varietal upgrade\n  mend: did you mean 'sft'?"


def test_schemas_for_editors_move_with_the_tool(root: Path) -> None:
    (root / "schema").mkdir()
    (root / "schema/model.json").write_text("{}")
    change = upgrade(root, ["fold"])
    assert change.paths == ("schema/model.json",)
    write_upgrade(root, change)
    assert "Varietal manifest" in (root / "schema/model.json").read_text()
    assert not (root / "schema/params.json").exists()  # one that the repository does not keep is not made


def test_a_recipe_newer_than_the_tool_is_a_fault_with_its_line(root: Path) -> None:
    (root / "params.yaml").write_text(PARAMS.replace("fold: 1", "fold: 7"))
    for ask in (lambda: upgrade(root, ()), lambda: check_recipes(root, load(root))):
        with pytest.raises(InvalidError) as caught:
            ask()
        assert str(caught.value) == (
            "params.yaml:6: recipes.fold: revision 7, this tool has 1\n"
            "  mend: install the tool that this repository pins, `pip install -r requirements.txt`; "
            "an older one cannot build what a newer one means\n"
            "1 fault found: correct every one; nothing was changed"
        )


def test_every_kind_is_compared(root: Path) -> None:
    assert [one.kind for one in revisions(load(root).project)] == [*kinds.KINDS]
