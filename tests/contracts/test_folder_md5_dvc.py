"""Folders and files get the names that DVC gives them, whatever lies in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.plan.digests import Digests
from builder.plan.memo import Memo
from registry import yaml12

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what is beneath DVC

_FOLDERS: Mapping[str, Mapping[str, bytes]] = {
    "flat": {"config.json": b"{}", "model.safetensors": bytes(3 << 20), "z": b"", "A": b"1", "a": b"2"},
    "deep": {"a/b/c": b"1", "a-b": b"2", "a/b.c": b"3", "a.b/c": b"4", "b": b"5"},
    "names": {"é.txt": b"1", "日本": b"2", 'a "b"': b"3", ".hidden": b"4", "x\\y": b"5", "😀": b"6"},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of DVC without git."""
    from dvc.repo import Repo  # noqa: PLC0415 - a second

    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    root = tmp_path / "team"
    root.mkdir()
    Repo.init(str(root), no_scm=True).close()
    monkeypatch.chdir(root)
    return root


def _by_dvc(root: Path, path: str) -> object:
    from dvc.repo import Repo  # noqa: PLC0415 - a second

    with Repo(str(root)) as repo:
        repo.add(path)
    value = yaml12.load((root / f"{path}.dvc").read_bytes(), path).value
    assert isinstance(value, dict)
    (out,) = value["outs"]  # type: ignore[misc]
    assert isinstance(out, dict)
    return out["md5"]


@pytest.mark.parametrize("name", _FOLDERS)
def test_a_folder(root: Path, name: str) -> None:
    for path, data in _FOLDERS[name].items():
        (root / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "out" / path).write_bytes(data)
    (root / "out" / "empty").mkdir()
    ours = Digests(root, Memo(root)).folder_md5("out")
    assert ours == _by_dvc(root, "out")


def test_a_folder_with_links(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "elsewhere/a").write_bytes(b"abc")
    (root / "out").mkdir()
    (root / "out/b").write_bytes(b"d")
    (root / "out/a").symlink_to(root / "elsewhere/a")
    (root / "out/c").symlink_to(root / "elsewhere")
    ours = Digests(root, Memo(root)).folder_md5("out")
    assert ours == _by_dvc(root, "out")


def test_a_file(root: Path) -> None:
    (root / "rows.jsonl").write_bytes(b'{"a": 1}\r\n{"a": 2}\n')
    assert Digests(root, Memo(root)).md5("rows.jsonl") == _by_dvc(root, "rows.jsonl")
