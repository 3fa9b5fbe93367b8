"""Loading some of many variants: those, what they are made from, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from builder.load import load

if TYPE_CHECKING:
    from pathlib import Path

_RECIPES = "recipes: {import: 1, cast: 1, blend: 1}\n"
_CAST = "stages: {small: {kind: cast, from: base, dtype: float16}}\nrelease: small\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(f"bases: {{tiny: {{path: tiny, sha256: '{'0' * 64}'}}}}\n{_RECIPES}")
    return tmp_path


def _declare(root: Path, variant: str, text: str) -> None:
    (root / "models" / variant).mkdir(parents=True)
    (root / "models" / variant / "model.yaml").write_text(text)


def test_several_at_once_are_read_with_what_they_need(root: Path) -> None:
    _declare(root, "first", f"base: tiny\n{_CAST}")
    _declare(root, "second", f"base: {{variant: first, stage: small}}\n{_CAST}")
    _declare(root, "third", f"base: tiny\n{_CAST}")
    _declare(root, "fourth", "broken: [")
    assert list(load(root, only=["second", "third"]).manifests) == ["first", "second", "third"]
    assert list(load(root, only=["bases"]).manifests) == []


def test_what_a_variant_blends_is_read_too(root: Path) -> None:
    """A model of `models:` may be another variant's stage, as `base:` and an adapter may."""
    _declare(root, "first", f"base: tiny\n{_CAST}")
    mixed = (
        "base: tiny\nmodels: {other: {variant: first, stage: small}}\n"
        "stages: {mixed: {kind: blend, method: linear, models: {base: 0.5, other: 0.5}}}\nrelease: mixed\n"
    )
    _declare(root, "second", mixed)
    assert list(load(root, only="second").manifests) == ["first", "second"]


def test_documents_are_kept_as_they_were_read(root: Path) -> None:
    _declare(root, "first", f"base: tiny\n{_CAST}")
    documents: dict[str, Any] = dict(load(root).documents)
    assert sorted(documents) == ["models/first/model.yaml", "params.yaml"]
    assert documents["models/first/model.yaml"]["stages"] == {
        "small": {"kind": "cast", "from": "base", "dtype": "float16"}
    }
