"""Real git: what is read, what is refused, and that nothing typed or set can turn git elsewhere."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from registry import history
from registry.errors import ConflictError, InvalidError, MachineError, NotFoundError, TransportError
from registry.history import Repository, find_root
from registry.mirror import mirror, remote_settings
from tests.repositories import Team, git

if TYPE_CHECKING:
    from pathlib import Path

    from registry.git_output import Change

RECORDS = ["models/*/records/*.json"]


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team.make(tmp_path / "team")


def write(team: Team, text: str, path: str = "models/a/records/x.json") -> str:
    """Write a file, commit it, return the commit."""
    (team.root / path).parent.mkdir(parents=True, exist_ok=True)
    (team.root / path).write_text(text)
    return team.commit(f"Write {text.strip()}")


def contents(team: Team, changes: list[Change]) -> set[tuple[str, str]]:
    blobs = team.repository.read_blobs(change.blob for change in changes)
    return {(change.commit, (data or b"").decode()) for change, data in zip(changes, blobs, strict=True)}


# Where it is


def test_a_folder_below_the_root_finds_it(team: Team) -> None:
    write(team, "1")
    assert find_root(team.root / "models" / "a") == team.root.resolve()
    assert Repository.open(team.root / "models").head() == team.repository.head()


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        find_root(tmp_path)
    assert str(caught.value) == (
        "this is not a git repository\n"
        f"  where: {tmp_path}\n"
        "  mend: go to a repository, make one with `git init`, or name one with --repo URL"
    )
    with pytest.raises(NotFoundError) as caught:
        Repository(tmp_path).head()
    assert caught.value.mend == "go to a repository or make one with `git init`"


def test_no_commit_yet(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    with pytest.raises(NotFoundError) as caught:
        Repository(tmp_path).head()
    assert str(caught.value) == (
        f"there is no commit 'HEAD'\n  where: {tmp_path}\n  mend: commit first, or fetch: `git fetch --tags`"
    )


def test_no_git(team: Team, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        team.repository.head()
    assert str(caught.value) == (f"git is not installed\n  where: {team.root}\n  mend: install git and put it on PATH")


def test_git_that_does_not_answer(team: Team, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(MachineError) as caught:
        history.run_git(["version"], where="here", timeout_s=0.2)
    assert caught.value.what == "git did not answer within 0 s"
    assert team.root.is_dir()


def test_a_variable_cannot_point_git_elsewhere(team: Team, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = Team.make(tmp_path / "other")
    commit = write(team, "1")
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other.root / ".git" / "objects"))
    assert team.repository.head() == commit
    assert team.repository.read("HEAD", "models/a/records/x.json") == b"1"


def test_a_broken_repository_is_not_taken_for_the_one_around_it(team: Team) -> None:
    (team.root / "inner" / ".git").mkdir(parents=True)
    with pytest.raises(NotFoundError) as caught:
        Repository.open(team.root / "inner").head()
    assert caught.value.what == "this is not a git repository"
    assert caught.value.where == str(team.root / "inner")


def test_a_replaced_object_is_read_as_it_was(team: Team) -> None:
    write(team, "good")
    good = git(team.root, "rev-parse", "HEAD:models/a/records/x.json").strip()
    write(team, "evil")
    bad = git(team.root, "rev-parse", "HEAD:models/a/records/x.json").strip()
    git(team.root, "replace", good, bad)
    assert team.repository.read("HEAD~1", "models/a/records/x.json") == b"good"


# Commits


@pytest.mark.parametrize("revision", ["--all", "-h", "nothing", "HEAD:README", "HEAD..HEAD", ""])
def test_what_is_no_commit(team: Team, revision: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        team.repository.resolve(revision)
    assert caught.value.what == f"there is no commit {revision!r}"


def test_branches_and_changes(team: Team) -> None:
    repository = team.repository
    assert (repository.branch(), repository.main_branch(), repository.changes()) == ("main", "refs/heads/main", ())
    (team.root / "new é.txt").write_text("x")
    (team.root / ".gitignore").write_text("")
    assert repository.changes() == (".gitignore", "new é.txt")
    git(team.root, "checkout", "--quiet", "--detach")
    assert repository.branch() == ""


def test_the_main_branch_is_what_the_origin_calls_so(team: Team, tmp_path: Path) -> None:
    git(team.root, "branch", "--quiet", "-m", "trunk")
    with pytest.raises(NotFoundError) as caught:
        team.repository.main_branch()
    assert caught.value.mend == "name it: `git remote set-head origin --auto`"
    git(tmp_path, "clone", "--quiet", str(team.root), "clone")
    assert Repository(tmp_path / "clone").main_branch() == "refs/remotes/origin/trunk"


def test_ancestors(team: Team) -> None:
    first, second = write(team, "1"), write(team, "2")
    assert team.repository.is_ancestor(first, second)
    assert team.repository.is_ancestor(first, first)
    assert not team.repository.is_ancestor(second, first)


def test_the_log_of_a_path(team: Team) -> None:
    write(team, "1")
    write(team, "b", "models/b/records/x.json")
    write(team, "2")
    log = team.repository.log(["models/a"])
    assert [commit.subject for commit in log] == ["Write 2", "Write 1"]
    assert log[0].id == team.repository.head()


# Files


def test_a_subject_with_what_ends_a_line_in_unicode(team: Team) -> None:
    write(team, "one\u2028two\x1cthree")
    assert [commit.subject for commit in team.repository.log(["models"])] == ["Write one\u2028two\x1cthree"]


def test_a_file_at_a_commit(team: Team) -> None:
    write(team, "1", "models/a/records/a b é.json")
    assert team.repository.read("HEAD", "models/a/records/a b é.json") == b"1"


def test_a_file_that_is_not_there(team: Team) -> None:
    with pytest.raises(NotFoundError) as caught:
        team.repository.read("main", "models/a/model.yaml")
    assert str(caught.value) == (
        f"there is no models/a/model.yaml\n  where: {team.root} at main\n  mend: commit it, or name another revision"
    )
    write(team, "1")
    with pytest.raises(NotFoundError):
        team.repository.read("main", "models/a")


def test_many_blobs_in_one_go(team: Team) -> None:
    commits = [write(team, "\n" * length) for length in (1, 0, 70_000)]
    names = [f"{commit}:models/a/records/x.json" for commit in commits]
    read = list(team.repository.read_blobs([*names, "0" * 40, *names[:1]]))
    assert read == [b"\n", b"", b"\n" * 70_000, None, b"\n"]
    with pytest.raises(InvalidError) as caught:
        list(team.repository.read_blobs(["a\nb"]))
    assert caught.value.what == "'a\\nb' has a line break in it"


@pytest.mark.parametrize("answer", ["missing", "submodule", "ambiguous"])
def test_what_git_has_no_bytes_of(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\nprintf '%s {answer}\\n%s blob 1\\na\\n' {'1' * 40} {'2' * 40}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert list(team.repository.read_blobs(["1" * 40, "2" * 40])) == [None, b"a"]


def test_a_blob_that_is_too_large_is_passed_over(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = [write(team, text) for text in ("a", "b" * 101, "c" * 100)]
    monkeypatch.setattr(history, "MAX_BYTES", 100)
    names = [f"{commit}:models/a/records/x.json" for commit in commits]
    assert list(team.repository.read_blobs(names)) == [b"a", None, b"c" * 100]


def test_a_reader_that_stops_early_leaves_no_process(team: Team) -> None:
    write(team, "1")
    blobs = team.repository.read_blobs(["HEAD:models/a/records/x.json"] * 1000)
    assert next(blobs) == b"1"
    started = time.monotonic()
    blobs.close()
    assert time.monotonic() - started < 5
    children = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, check=False)
    assert b"cat-file" not in children.stdout


# History of records


def test_every_state_of_a_file_is_found_merged_away_branches_too(team: Team) -> None:
    first = write(team, "1")
    git(team.root, "checkout", "--quiet", "-b", "side")
    lost = write(team, "lost")
    git(team.root, "checkout", "--quiet", "main")
    write(team, "y", "README")
    git(team.root, "merge", "--quiet", "--strategy=ours", "--message=merge", "side")
    git(team.root, "branch", "--quiet", "-D", "side")
    last = write(team, "2")
    git(team.root, "rm", "--quiet", "models/a/records/x.json")
    team.commit("Remove")
    changes = [*team.repository.changed_files(RECORDS)]
    assert contents(team, changes) == {(first, "1"), (lost, "lost"), (last, "2")}


def test_what_a_merge_itself_wrote_is_found(team: Team) -> None:
    write(team, "1")
    git(team.root, "checkout", "--quiet", "-b", "side")
    write(team, "ours")
    git(team.root, "checkout", "--quiet", "main")
    write(team, "theirs")
    git(team.root, "merge", "--quiet", "side", check=False)
    merge = write(team, "both")
    assert (merge, "both") in contents(team, [*team.repository.changed_files(RECORDS)])


def test_only_what_is_new_is_found_again(team: Team) -> None:
    write(team, "1")
    seen = team.repository.tips()
    assert [*team.repository.changed_files(RECORDS, seen=seen)] == []
    second = write(team, "2")
    git(team.root, "tag", "--annotate", "--message=x", "v1")
    assert contents(team, [*team.repository.changed_files(RECORDS, seen=seen)]) == {(second, "2")}
    assert [*team.repository.changed_files(RECORDS, seen=["0" * 40])] != []


def test_whether_history_was_rewritten(team: Team) -> None:
    write(team, "1")
    seen = team.repository.tips()
    write(team, "2")
    assert team.repository.reaches(seen)
    git(team.root, "reset", "--quiet", "--hard", "HEAD~2")
    assert not team.repository.reaches(seen)
    assert not team.repository.reaches(["0" * 40])


def test_a_shallow_clone_says_so(team: Team, tmp_path: Path) -> None:
    commit = write(team, "1")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{team.root}", "shallow")
    assert team.repository.is_shallow() == ""
    assert Repository(tmp_path / "shallow").is_shallow() == f"{commit}\n"


# Tags


def test_a_tag_is_made_and_read(team: Team) -> None:
    message = 'support v1.0.0\n\n{\n  # not a comment\n  "a": 1\n}\n'
    team.repository.create_tag("support@v1.0.0", "HEAD", message)
    git(team.root, "tag", "light")
    made, light = sorted(team.repository.tags(messages=True), key=lambda tag: tag.annotated, reverse=True)
    assert (made.name, made.target, made.message, made.annotated) == (
        "support@v1.0.0",
        team.repository.head(),
        message,
        True,
    )
    assert not light.annotated
    assert [tag.name for tag in team.repository.tags("support@*")] == ["support@v1.0.0"]
    assert team.repository.tags("other@*") == ()


def test_a_tag_with_a_date_that_no_calendar_has(team: Team) -> None:
    head = team.repository.head()
    text = f"object {head}\ntype commit\ntag a@v1.0.0\ntagger x <x@example.org> 99999999999999 +0000\n\nhi\n"
    (team.root / "tag").write_text(text)
    made = git(team.root, "hash-object", "-t", "tag", "-w", "--literally", "tag").strip()
    git(team.root, "update-ref", "refs/tags/a@v1.0.0", made)
    assert [(tag.name, tag.target, tag.created.year) for tag in team.repository.tags()] == [("a@v1.0.0", head, 1970)]


def test_a_tag_that_exists(team: Team) -> None:
    team.repository.create_tag("support@v1.0.0", "HEAD", "x")
    with pytest.raises(ConflictError) as caught:
        team.repository.create_tag("support@v1.0.0", "HEAD", "y")
    assert str(caught.value) == (
        "the tag support@v1.0.0 exists\n"
        f"  where: {team.root}\n"
        "  mend: a release never moves: take the next version, or fetch first"
    )


def test_a_tag_that_cannot_be_signed(team: Team) -> None:
    git(team.root, "config", "tag.gpgsign", "true")
    git(team.root, "config", "gpg.program", "false")
    with pytest.raises(MachineError) as caught:
        team.repository.create_tag("support@v1.0.0", "HEAD", "x")
    assert caught.value.what.startswith("git could not make the tag support@v1.0.0: ")
    assert caught.value.mend == "set user.name and user.email, and the signing key where tags are signed"
    assert team.repository.tags() == ()


SIGNER = """\
#!/bin/sh
# Stands for gpg: signs anything, and knows a good signature by its text.
case "$*" in
*--verify*)
    cat > /dev/null
    for file in "$@"; do
        case "$file" in /*) grep -q GOOD "$file" && printf '\\n[GNUPG:] GOODSIG 0 A\\n' && exit 0 ;; esac
    done
    exit 1 ;;
*)
    cat > /dev/null
    printf -- '-----BEGIN PGP SIGNATURE-----\\n\\nGOOD\\n-----END PGP SIGNATURE-----\\n'
    echo "[GNUPG:] SIG_CREATED " >&2 ;;
esac
"""


def test_a_tag_is_signed_where_git_is_set_up_to_sign(team: Team, tmp_path: Path) -> None:
    (tmp_path / "signer").write_text(SIGNER)
    (tmp_path / "signer").chmod(0o755)
    for name, value in {
        "gpg.program": str(tmp_path / "signer"),
        "tag.gpgsign": "true",
        "gpg.format": "openpgp",
    }.items():
        git(team.root, "config", name, value)
    team.repository.create_tag("support@v1.0.0", "HEAD", "support v1.0.0\n\n{}\n")
    assert "BEGIN PGP SIGNATURE" in git(team.root, "cat-file", "tag", "support@v1.0.0")
    (tag,) = team.repository.tags(messages=True)
    assert tag.message == "support v1.0.0\n\n{}\n"
    assert team.repository.check_signature("support@v1.0.0")
    (tmp_path / "signer").write_text(SIGNER.replace("grep -q GOOD", "grep -q OTHER"))
    assert not team.repository.check_signature("support@v1.0.0")


def test_a_log_that_git_is_set_up_to_show_signatures_in(team: Team, tmp_path: Path) -> None:
    (tmp_path / "signer").write_text(SIGNER.replace("--verify*)", "--verify*)\n    echo 'gpg: good' >&2"))
    (tmp_path / "signer").chmod(0o755)
    for name, value in {
        "gpg.program": str(tmp_path / "signer"),
        "commit.gpgsign": "true",
        "log.showSignature": "true",
    }.items():
        git(team.root, "config", name, value)
    commit = write(team, "1")
    assert "gpg: good" in git(team.root, "log")
    assert [one.id for one in team.repository.log(["models"])] == [commit]


def test_an_unsigned_tag_has_no_good_signature(team: Team) -> None:
    team.repository.create_tag("support@v1.0.0", "HEAD", "x")
    assert not team.repository.check_signature("support@v1.0.0")


# Copies of other repositories


def test_a_copy_is_made_once_and_follows(team: Team, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = mirror(str(team.root), cache)
    assert first.bare
    assert (first.head(), first.changes()) == (team.repository.head(), ())
    commit = write(team, "1")
    team.repository.create_tag("support@v1.0.0", "HEAD", "x")
    assert mirror(str(team.root), cache, refresh=False).head() != commit
    again = mirror(str(team.root), cache)
    assert (again.root, again.head()) == (first.root, commit)
    assert [tag.name for tag in again.tags()] == ["support@v1.0.0"]
    assert again.read("main", "models/a/records/x.json") == b"1"


def test_a_main_branch_that_was_renamed_at_the_origin(team: Team, tmp_path: Path) -> None:
    mirror(str(team.root), tmp_path / "cache")
    git(team.root, "branch", "--move", "main", "trunk")
    commit = write(team, "1")
    again = mirror(str(team.root), tmp_path / "cache")
    assert (again.branch(), again.head()) == ("trunk", commit)
    git(team.root, "checkout", "--quiet", "--detach")
    again = mirror(str(team.root), tmp_path / "cache")
    assert (again.branch(), again.head()) == ("trunk", commit)


def test_what_a_killed_clone_left_is_removed(team: Team, tmp_path: Path) -> None:
    root = mirror(str(team.root), tmp_path / "cache").root
    root.rename(root.with_suffix(".clone"))
    assert mirror(str(team.root), tmp_path / "cache").head() == team.repository.head()
    assert sorted(path.suffix for path in root.parent.iterdir()) == [".git", ".lock"]


def test_a_tag_that_was_moved_at_the_origin(team: Team, tmp_path: Path) -> None:
    team.repository.create_tag("support@v1.0.0", "HEAD", "x")
    old = mirror(str(team.root), tmp_path / "cache").resolve("support@v1.0.0")
    write(team, "1")
    git(team.root, "tag", "--annotate", "--force", "--message=evil", "support@v1.0.0")
    with pytest.raises(ConflictError) as caught:
        mirror(str(team.root), tmp_path / "cache")
    assert str(caught.value) == (
        "moved at the origin: support@v1.0.0\n"
        f"  where: {team.root}\n"
        "  mend: a release never moves; ask who moved it, then remove the cached copy if the new place is right"
    )
    assert mirror(str(team.root), tmp_path / "cache", refresh=False).resolve("support@v1.0.0") == old


def test_a_tag_that_was_removed_at_the_origin_and_made_again(team: Team, tmp_path: Path) -> None:
    team.repository.create_tag("a@v1.0.0", write(team, "1"), "one")
    mirror(str(team.root), tmp_path / "cache")
    git(team.root, "tag", "--delete", "a@v1.0.0")
    assert [tag.name for tag in mirror(str(team.root), tmp_path / "cache").tags()] == ["a@v1.0.0"]
    team.repository.create_tag("a@v1.0.0", write(team, "2"), "two")
    with pytest.raises(ConflictError) as caught:
        mirror(str(team.root), tmp_path / "cache")
    assert caught.value.what == "moved at the origin: a@v1.0.0"


@pytest.mark.parametrize("url", ["https://user:secret@127.0.0.1:9/team.git", "--upload-pack=touch evil", "/nowhere"])
def test_an_origin_that_does_not_answer(url: str, tmp_path: Path) -> None:
    with pytest.raises(TransportError) as caught:
        mirror(url, tmp_path / "cache")
    assert "secret" not in str(caught.value)
    assert caught.value.mend == "check the URL and the network"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_copy_lends_its_remotes_to_dvc(team: Team, tmp_path: Path) -> None:
    write(team, "[core]\n    remote = storage\n", ".dvc/config")
    with remote_settings(mirror(str(team.root), tmp_path / "cache")) as folder:
        assert (folder / ".dvc" / "config").read_text() == "[core]\n    remote = storage\n"
    assert not folder.exists()
