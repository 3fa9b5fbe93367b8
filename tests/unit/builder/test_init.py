"""A repository laid out where git and DVC are already; nothing of theirs is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.compiled import stale_files
from builder.init import init
from builder.load import load
from builder.schema import SCHEMAS
from builder.start.storage import remote_url
from registry import __version__
from registry.errors import ConflictError, InvalidError

if TYPE_CHECKING:
    from pathlib import Path

    from builder.start.workflows import Host

GITIGNORE = """\
# Bytes are kept by DVC; git keeps manifests, pipelines, locks and records.
/models/*/artifacts/
# `?*`, since DVC takes `/bases/*` for the folder itself, and then sees no pipeline in it.
/bases/?*
!/bases/dvc.yaml
!/bases/dvc.lock
!/bases/records/
/.varietal/
"""
DVCIGNORE = """\
# Work folders hold nothing of DVC's, and it would walk them at every command.
/.varietal/
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that git and DVC know, so that neither is called."""
    for name in (".git", ".dvc"):
        (tmp_path / "team" / name).mkdir(parents=True)
    return tmp_path / "team"


def test_what_is_ignored_is_written(root: Path) -> None:
    assert init(root, {}).written[-2:] == (".gitignore", ".dvcignore")
    assert (root / ".gitignore").read_text() == GITIGNORE
    assert (root / ".dvcignore").read_text() == DVCIGNORE


@pytest.mark.parametrize("own", ["*.pyc\n", "*.pyc"], ids=["whole line", "no newline"])
def test_what_is_ignored_already_stays(root: Path, own: str) -> None:
    (root / ".gitignore").write_text(own)
    (root / ".dvcignore").write_text(own)
    init(root, {})
    assert (root / ".gitignore").read_text() == f"*.pyc\n\n{GITIGNORE}"
    assert (root / ".dvcignore").read_text() == f"*.pyc\n\n{DVCIGNORE}"


def test_what_is_ignored_is_added_once(root: Path) -> None:
    (root / ".gitignore").write_text(f"*.pyc\n\n{GITIGNORE}*.log\n")
    (root / ".dvcignore").write_text(DVCIGNORE)
    assert not {".gitignore", ".dvcignore"} & {*init(root, {}).written}
    assert (root / ".gitignore").read_text() == f"*.pyc\n\n{GITIGNORE}*.log\n"
    assert (root / ".dvcignore").read_text() == DVCIGNORE


def test_what_a_team_has_of_its_own_stays(root: Path) -> None:
    own = {"README.md": "# Ours\n", "requirements.txt": "x==1\n", ".github/workflows/check.yml": "name: ours\n"}
    for path, text in own.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    begun = init(root, {})
    assert begun.kept == tuple(own)
    assert {path: (root / path).read_text() for path in own} == own
    assert "constraints.txt" in begun.written
    assert ".github/workflows/plan.yml" in begun.written


def test_what_is_written_passes_and_names_the_schema(root: Path) -> None:
    init(root, {})
    assert load(root).manifests == {}
    assert stale_files(root) == ()
    first = (root / "params.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema/params.json"
    assert (root / "schema/params.json").read_bytes() == (SCHEMAS / "params.schema.json").read_bytes()
    assert (root / "schema/model.json").read_bytes() == (SCHEMAS / "manifest.schema.json").read_bytes()
    assert f"varietal=={__version__}" in (root / "constraints.txt").read_text().splitlines()
    assert (root / "README.md").read_text().startswith("# team\n")


def test_a_name_that_anybody_may_claim_is_never_installed(root: Path) -> None:
    init(root, {})
    lines = (root / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


@pytest.mark.parametrize(
    "tool",
    [
        f"varietal @ https://models.example.org/varietal-0.1.0-py3-none-any.whl#sha256={'0' * 64}",
        f"varietal==0.1.0 --hash=sha256:{'0' * 64}",
        f"varietal==0.1.0 --hash=sha256:{'0' * 64} --hash=sha256:{'1' * 64}",
    ],
)
def test_the_tool_is_installed_from_where_it_was_said(root: Path, tool: str) -> None:
    init(root, {}, tool=tool)
    assert (root / "requirements.txt").read_text().splitlines()[-1] == tool


@pytest.mark.parametrize(
    "tool",
    [
        "varietal",
        "varietal==0.1.0",
        "varietal @ https://models.example.org/varietal-0.1.0-py3-none-any.whl",
        f"varietal @ http://models.example.org/a.whl#sha256={'0' * 64}",
        f"varietal @ https://me:secret@models.example.org/a.whl#sha256={'0' * 64}",
        f"varietal==0.1.0 --hash=sha256:{'0' * 63}",
        f"varietal==0.1.0 --hash=sha256:{'0' * 64}\nother",
        f"other==0.1.0 --hash=sha256:{'0' * 64}",
    ],
)
def test_a_tool_without_its_sha256_is_refused(root: Path, tool: str) -> None:
    with pytest.raises(InvalidError) as caught:
        init(root, {}, tool=tool)
    assert "secret" not in str(caught.value)
    assert not (root / "params.yaml").exists()


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [((), set()), (("gitlab",), {".gitlab-ci.yml"}), (("github",), {".github/workflows/build.yml"})],
)
def test_workflows_are_those_of_the_host(root: Path, hosts: tuple[Host, ...], expected: set[str]) -> None:
    written = {path for path in init(root, {}, hosts=hosts).written if path.startswith((".github", ".gitlab"))}
    assert expected <= written
    assert bool(written) == bool(hosts)


def test_dvc_that_is_there_keeps_its_settings(root: Path) -> None:
    (root / ".dvc/config").write_text("[core]\n    remote = ours\n")
    assert init(root, {}).remote == ""
    assert (root / ".dvc/config").read_text() == "[core]\n    remote = ours\n"


def test_another_default_remote_is_not_put_in_place_of_one_that_is_there(root: Path) -> None:
    (root / ".dvc/config").write_text("[core]\n    remote = ours\n")
    with pytest.raises(ConflictError) as caught:
        init(root, {}, remote="s3://bucket/path")
    assert str(caught.value) == (
        "DVC has the default remote 'ours' already\n"
        f"  where: {root}/.dvc/config\n"
        "  mend: leave --remote out, or change it with `dvc remote modify`; nothing was written"
    )
    assert not (root / "params.yaml").exists()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("", "../../team-remote"),
        ("s3://bucket/path", "s3://bucket/path"),
        ("/srv/bytes", "/srv/bytes"),
        ("../elsewhere", "../../../elsewhere"),
    ],
)
def test_a_remote_is_written_so_that_clones_find_it(root: Path, given: str, url: str) -> None:
    assert remote_url(root, given, root.parent) == url


@pytest.mark.parametrize("given", ['s3://a"b', "x\ny", "https://me:secret@host/path"])
def test_a_remote_that_cannot_stand_in_git_is_refused(root: Path, given: str) -> None:
    with pytest.raises(InvalidError) as caught:
        remote_url(root, given, root)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_there_is_a_conflict(root: Path) -> None:
    (root / "params.yaml").write_text("bases: {}\n")
    (root / ".gitignore").symlink_to("elsewhere")
    with pytest.raises(ConflictError) as caught:
        init(root, {})
    assert str(caught.value) == (
        "params.yaml, .gitignore: there already\n"
        f"  where: {root}\n"
        "  mend: take an empty folder, or remove them; nothing was written"
    )
    assert not (root / "dvc.yaml").exists()
    assert not (root / "elsewhere").exists()


def test_a_folder_within_a_git_repository_is_refused(root: Path) -> None:
    with pytest.raises(ConflictError) as caught:
        init(root / "models/team", {})
    assert str(caught.value) == (
        f"the folder is within the git repository {root}\n"
        f"  where: {root}/models/team\n"
        "  mend: run `varietal init` at its root, or take a folder outside of it; nothing was written"
    )
    assert not (root / "models").exists()
