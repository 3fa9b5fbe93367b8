"""What someone gains who may only ask for a merge: nothing. Each test is one try, with real git."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from builder.drive.environment import stage_environment
from builder.request.names import shown
from builder.request.push import check_branch
from registry import yaml12
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.history import Repository
from tests.forge import MANIFEST, Forge, commit, write, write_built
from tests.repositories import git

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.request.assembled import Assembled

PWNED = "stages: {a: {cmd: touch pwned, outs: [out]}}\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """One forge for all tests that leave main as it is."""
    return Forge.make(tmp_path_factory.mktemp("forge"))


@pytest.fixture
def forge(shared: Forge) -> Forge:
    """With the author's branch back at main."""
    git(shared.author, "reset", "--quiet", "--hard")
    git(shared.author, "clean", "-fdxq")
    git(shared.author, "checkout", "--quiet", "-B", "wish", "origin/main")
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Forge:
    """A forge of the test's own."""
    return Forge.make(tmp_path)


def files(assembled: Assembled) -> set[str]:
    """Everything in an assembled tree but git's own."""
    root = assembled.root
    paths = (path for path in root.rglob("*") if not path.is_dir() and ".git" not in path.relative_to(root).parts)
    return {path.relative_to(root).as_posix() for path in paths}


def refusal(forge: Forge) -> str:
    """Why the request is refused, in words."""
    forge.send()
    with pytest.raises(InvalidError) as caught:
        forge.assemble()
    return str(caught.value)


def raw_request(forge: Forge, entries: Mapping[str, tuple[str, str]]) -> str:
    """A request whose tree git itself would not make: mode and id by path, put beside main's."""
    root = forge.author
    tree = git(root, "rev-parse", "HEAD^{tree}").strip()
    for path, (mode, oid) in entries.items():
        tree = _graft(root, tree, path, mode, oid)
    made = git(root, "commit-tree", tree, "-p", "HEAD", "-m", "Raw").strip()
    git(root, "push", "--quiet", "--force", "origin", f"{made}:refs/heads/wish")
    forge.fetch()
    return made


def _graft(root: Path, tree: str, path: str, mode: str, oid: str) -> str:
    name, _, rest = path.partition("/")
    rows = [row for row in git(root, "ls-tree", "-z", tree).split("\0") if row]
    old = next((row for row in rows if row.partition("\t")[2] == name), "")
    if rest:
        inner = (
            old.split()[2] if old.startswith("040000") else git(root, "hash-object", "-t", "tree", "/dev/null").strip()
        )
        mode, oid = "040000", _graft(root, inner, rest, mode, oid)
    kind = {"040000": "tree", "160000": "commit"}.get(mode, "blob")
    rows = [row for row in rows if row != old] + [f"{mode} {kind} {oid}\t{name}"]
    return _mktree(root, rows)


def _mktree(root: Path, rows: list[str]) -> str:
    data = "".join(f"{row}\0" for row in rows).encode("utf-8", "surrogateescape")
    command = ["git", "mktree", "-z", "--missing"]
    return subprocess.run(command, cwd=root, input=data, capture_output=True, check=True).stdout.decode().strip()


def blob(forge: Forge, text: str = "x") -> str:
    """Id of a blob in the author's repository."""
    write(forge.author, {".git/blob": text})
    return git(forge.author, "hash-object", "-w", ".git/blob").strip()


# Commands and configuration


def test_commands_in_pipelines_are_never_taken(forge: Forge) -> None:
    places = ("dvc.yaml", "bases/dvc.yaml", "models/support/dvc.yaml", "data/dvc.yaml", "data/deep/er/dvc.yaml")
    before = {path: (forge.runner / path).read_text() for path in places if (forge.runner / path).exists()}
    forge.ask(dict.fromkeys((*places, "models/support/deep/dvc.yaml", "data/dvc.lock", "data/DVC.yaml"), PWNED))
    assembled = forge.assemble()
    there = {path for path in files(assembled) if path.casefold().endswith(("dvc.yaml", "dvc.lock"))}
    assert there == set(before)
    assert {path: (assembled.root / path).read_text() for path in there} == before
    assert assembled.generated == ("bases/dvc.yaml", "dvc.yaml", "models/support/dvc.yaml")
    assert {"data/dvc.yaml", "data/deep/er/dvc.yaml", "data/DVC.yaml"} <= set(assembled.left)
    assert "models/support/deep/dvc.yaml" in assembled.left
    assert assembled.taken == ()


@pytest.mark.parametrize(
    "path",
    [
        ".dvc/config",
        ".dvc/config.local",
        ".dvc/plugins/x.py",
        ".github/workflows/build.yml",
        ".gitlab-ci.yml",
        ".gitattributes",
        "data/.gitattributes",
        "data/.gitignore",
        ".gitmodules",
        ".dvcignore",
        "data/.dvcignore",
        ".lfsconfig",
        "builder/run.py",
        "dvc.py",
        "sitecustomize.py",
        ".varietal/runner.yaml",
        "models/support/artifacts/final/config.json",
        "models/support/model.yaml.dvc",
        "other.dvc",
    ],
)
def test_what_is_not_taken_is_not_there_and_is_told(forge: Forge, path: str) -> None:
    forge.ask({path: "[core]\n    remote = evil\n['remote \"evil\"']\n    url = ../evil\n"})
    assembled = forge.assemble()
    there, kept = ((root / path) for root in (assembled.root, forge.runner))
    found = there.read_bytes() if there.exists() else b""
    assert b"evil" not in found
    assert found == (kept.read_bytes() if kept.exists() else b"") or path == ".dvc/config.local"  # the runner's own
    assert any(path == one or path.startswith(f"{one}/") for one in assembled.left)
    assert assembled.taken == ()


def test_filters_and_hooks_do_not_run(own: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner's git is set up with a filter and hooks, as one with LFS is; main and the request both name it."""
    hooks, mark = tmp_path / "hooks", tmp_path / "pwned"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "pre-push", "post-index-change", "pre-commit", "post-merge"):
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {mark}\n")
        (hooks / name).chmod(0o755)
    own.main({".gitattributes": "*.md filter=evil\n", "README.md": "as it is\n"})
    git(own.author, "pull", "--quiet", "--rebase", "origin", "main")
    own.ask({".gitattributes": "* filter=evil\n", "data/.gitattributes": "* filter=evil\n", "data/x.jsonl": "{}\n"})
    settings = tmp_path / "settings"
    settings.write_text(
        f'[core]\n\thooksPath = {hooks}\n[filter "evil"]\n\tsmudge = echo smudge >> {mark}; cat\n'
        f"\tclean = echo clean >> {mark}; cat\n\tprocess = echo process >> {mark}\n\trequired = true\n"
        "[user]\n\tname = R\n\temail = r@example.org\n[fetch]\n\trecurseSubmodules = true\n"
    )
    git(own.origin, "config", "core.hooksPath", "/dev/null")  # its hooks are its own business
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    assembled = own.assemble()
    assert (assembled.root / "data/x.jsonl").read_text() == "{}\n"
    assert (assembled.root / "README.md").read_text() == "as it is\n"
    write_built(assembled.root, "support", {"tone": b"1", "final": b"2"})
    done = own.call("publish", "--request", "origin/wish")
    assert done.returncode == 0, done.stderr
    assert not mark.exists(), mark.read_text()


# Ways out of the tree


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("models/calm", "/etc"),
        ("models/calm/model.yaml", "/etc/passwd"),
        ("models/support/records", "../../../.git"),
        ("data/x.jsonl", "../../secret"),
        ("data/folder", "/"),
        ("bases/tiny", "../.git"),
        ("models/support/deep/link", "/etc"),
    ],
)
def test_a_symbolic_link_is_refused(forge: Forge, link: str, target: str) -> None:
    path = forge.author / link
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    commit(forge.author)
    assert refusal(forge).startswith(f"{link}: a symbolic link, which could lead out of the repository\n")


@pytest.mark.parametrize("folder", ["data", "models", "bases"])
def test_a_link_in_place_of_a_folder_is_refused(forge: Forge, folder: str) -> None:
    git(forge.author, "rm", "-r", "--quiet", folder)
    (forge.author / folder).symlink_to("..")
    commit(forge.author)
    assert f"{folder}: a symbolic link" in refusal(forge)


@pytest.mark.parametrize("path", ["data/sub", "models/calm", "models/calm/model.yaml", "data"])
def test_a_submodule_is_refused(forge: Forge, path: str) -> None:
    raw_request(forge, {path: ("160000", git(forge.author, "rev-parse", "HEAD").strip())})
    with pytest.raises(InvalidError, match=f"^{path}: a submodule\n"):
        forge.assemble()


def test_a_submodule_elsewhere_is_not_looked_at(forge: Forge) -> None:
    raw_request(forge, {"vendor/lib": ("160000", "1" * 40)})
    assembled = forge.assemble()
    assert not (assembled.root / "vendor").exists()
    assert assembled.left == ("vendor",)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("data/a\nb.jsonl", "no plain path"),
        ("data/\x1b[2Jx.jsonl", "no plain path"),
        ("data/evil\u202ejsonl", "no plain path"),
        ("data/a\\b.jsonl", "no plain path"),
        ("data/c:x.jsonl", "no plain path"),
        ("data/git~1/config", "a name that git keeps for itself"),
        ("data/GIT~2", "a name that git keeps for itself"),
        ("data/Talks.jsonl", "cannot stand beside data/talks.jsonl"),
        ("models/Support/model.yaml", "expected a name"),
        ("models/-x/model.yaml", "expected a name"),
        ("models/bases/model.yaml", "reserved"),
        ("models/../model.yaml", "no plain path"),
    ],
)
def test_a_hostile_name_is_refused(forge: Forge, path: str, problem: str) -> None:
    raw_request(forge, {path: ("100644", blob(forge))})
    with pytest.raises(InvalidError) as caught:
        forge.assemble()
    text = str(caught.value)
    assert problem in text
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(
    "path", ["data/.git/config", "data/.GIT/hooks/post-checkout", "data/.hidden.jsonl", "data/.g\u200cit/config"]
)
def test_a_hidden_name_is_left_alone(forge: Forge, path: str) -> None:
    raw_request(forge, {path: ("100644", blob(forge))})
    try:
        assembled = forge.assemble()
    except InvalidError as error:
        assert "a name that git keeps for itself" in str(error)  # noqa: PT017 - either is fine, being there is not
        return
    assert shown(path) in assembled.left
    assert not (assembled.root / path).exists()


def test_two_names_of_one_letter_are_refused(forge: Forge) -> None:
    one, other = "data/caf\u00e9.jsonl", "data/cafe\u0301.jsonl"
    raw_request(forge, {one: ("100644", blob(forge)), other: ("100644", blob(forge))})
    with pytest.raises(InvalidError, match="cannot stand beside"):
        forge.assemble()


def test_options_and_shell_in_names_are_only_names(forge: Forge) -> None:
    names = ("data/-rf.jsonl", "data/--output=x", "data/$(touch pwned).jsonl", "data/`touch pwned`", "data/a b;c&d")
    forge.ask(dict.fromkeys(names, "{}\n"))
    assembled = forge.assemble()
    assert set(assembled.taken) == set(names)
    assert not [path for path in files(assembled) if path.endswith("pwned")]


def test_an_executable_is_taken_as_a_file(forge: Forge) -> None:
    write(forge.author, {"data/run.jsonl": "{}\n"})
    (forge.author / "data/run.jsonl").chmod(0o755)
    forge.ask()
    assert not os.access(forge.assemble().root / "data/run.jsonl", os.X_OK)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".dvc/config.local",
        ".varietal/runner.yaml",
        "../secret",
        "/etc/passwd",
        "data/../.git/config",
        "models/support/artifacts/tone/x",
        "bases/tiny/config.json",
    ],
)
def test_a_manifest_cannot_name_what_is_not_its_business(forge: Forge, path: str) -> None:
    forge.ask({"models/calm/model.yaml": MANIFEST.replace("data/talks.jsonl", path)})
    assert "models/calm/model.yaml:3: data.talks.path: expected a path within the repository" in refusal(forge)


@pytest.mark.parametrize("path", [".git", ".dvc", ".varietal", "../other", "/etc"])
def test_a_base_cannot_be_what_is_not_its_business(forge: Forge, path: str) -> None:
    text = (forge.author / "params.yaml").read_text()
    forge.ask({"params.yaml": text.replace("sources/tiny", path)})
    assert "params.yaml:2: bases.tiny.path: expected a path within the repository" in refusal(forge)


def test_what_lies_about_on_the_runner_is_not_in_the_tree(forge: Forge) -> None:
    write(forge.runner, {"token.txt": "s3cret", "data/private.jsonl": "{}\n", ".env": "TOKEN=1"})
    forge.ask({"models/calm/model.yaml": MANIFEST.replace("data/talks.jsonl", "data/private.jsonl")})
    assert "data/private.jsonl does not exist" in refusal(forge)
    git(forge.author, "reset", "--quiet", "--hard", "origin/main")
    forge.ask({"data/x.jsonl": "{}\n"})
    assert not {"token.txt", "data/private.jsonl", ".env"} & files(forge.assemble())


def test_a_path_that_dvc_would_expand_is_refused(forge: Forge) -> None:
    name = "data/${HOME}.jsonl"
    forge.ask({name: "{}\n", "models/calm/model.yaml": MANIFEST.replace("data/talks.jsonl", f"'{name}'")})
    assert "data.talks.path: expected a path within the repository" in refusal(forge)


# What DVC keeps


POINTER = "outs:\n- md5: 0123456789abcdef0123456789abcdef\n  size: 3\n  hash: md5\n  path: x.jsonl\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"cmd: touch pwned\n{POINTER}", "cmd: a key that a request may not use here"),
        (f"deps:\n- path: https://example.org/x\n{POINTER}", "deps: a key that a request may not use here"),
        (f"wdir: ../..\n{POINTER}", "wdir: a key that a request may not use here"),
        (f"frozen: true\n{POINTER}", "frozen: a key that a request may not use here"),
        (POINTER + "  remote: evil\n", "outs[0].remote: a key that a request may not use here"),
        (POINTER + "  cache: false\n", "outs[0].cache: a key that a request may not use here"),
        (POINTER + "  files: [{md5: a, relpath: ../x}]\n", "outs[0].files: a key that a request may not use here"),
        (POINTER.replace("x.jsonl", "../x.jsonl"), "outs[0].path: expected 'x.jsonl', the file beside this one"),
        (POINTER.replace("x.jsonl", "/etc/x"), "outs[0].path: expected 'x.jsonl', the file beside this one"),
        (POINTER.replace("x.jsonl", "dvc.yaml"), "outs[0].path: expected 'x.jsonl', the file beside this one"),
        (POINTER.replace("cdef\n", "cdef.dir\n"), "of one file: folders are not taken from a request"),
        (POINTER.replace("0123", "../../"), "outs[0].md5: expected 32 hexadecimal digits of one file"),
        (POINTER.replace("size: 3", "size: -3"), "outs[0].size: expected a whole number of bytes"),
        (POINTER.replace("  hash: md5\n", ""), "outs[0].hash: expected md5, as DVC 3 writes it"),
        (POINTER + POINTER.removeprefix("outs:\n"), "outs: expected a list of one table"),
        ("- 1\n", "no table"),
        ("a: &a [x]\nb: [*a, *a]\n<<: {}\n", "a merge key"),
        (POINTER + f"# {'x' * (1 << 15)}\n", "at most 16384 are taken"),
    ],
)
def test_a_pointer_says_one_md5_and_no_more(forge: Forge, text: str, problem: str) -> None:
    forge.ask({"data/x.jsonl.dvc": text})
    assert problem in refusal(forge)


@pytest.mark.parametrize("name", ["dvc.yaml.dvc", "x.dvc.dvc", ".hidden.dvc", "DVC.LOCK.dvc", "x.DVC"])
def test_a_pointer_makes_nothing_that_dvc_reads(forge: Forge, name: str) -> None:
    """`dvc pull` of data/dvc.yaml.dvc would put a pipeline there."""
    forge.ask({f"data/{name}": POINTER.replace("x.jsonl", name.removesuffix(".dvc"))})
    assembled = forge.assemble()
    assert assembled.left == (f"data/{name}",)
    assert not (assembled.root / "data" / name).exists()


def test_a_pointer_is_written_anew(forge: Forge) -> None:
    forge.ask({"data/x.jsonl.dvc": f"desc: hm\nmeta: {{a: 1}}\n{POINTER}  desc: 'x'\n"})
    assert (forge.assemble().root / "data/x.jsonl.dvc").read_text() == POINTER.replace("x.jsonl", "'x.jsonl'")


def test_a_pointer_beside_its_own_file_is_refused(forge: Forge) -> None:
    forge.ask({"data/talks.jsonl.dvc": POINTER.replace("x.jsonl", "talks.jsonl")})
    assert "data/talks.jsonl.dvc: cannot stand beside data/talks.jsonl" in refusal(forge)


# Bombs


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: " + "[" * 60_000, "nested deeper than 64"),
        (
            "a0: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{n}: &a [{'*a,' * 10}]\n" for n in range(9)),
            "aliases stand for",
        ),
        ("a: &a {k: v}\nb: {<<: *a}\n", "a merge key"),
        ("x: " + "y" * (2 << 20), "bytes, at most 1048576 are taken"),
        ("!!python/object/apply:os.system [touch pwned]", "tag 'tag:yaml.org,2002:python/"),
    ],
    ids=["deep", "aliases", "merge", "large", "tag"],
)
def test_a_bomb_of_a_manifest_ends_early(forge: Forge, text: str, problem: str) -> None:
    forge.ask({"models/calm/model.yaml": text})
    start = time.monotonic()
    assert problem in refusal(forge)
    assert time.monotonic() - start < 10


def bomb(forge: Forge, depth: int) -> str:
    """A tree of ten to the power of ``depth`` files, in ``depth`` objects."""
    tree = _mktree(forge.author, [f"100644 blob {blob(forge)}\t{n}.jsonl" for n in range(10)])
    for _ in range(depth - 1):
        tree = _mktree(forge.author, [f"040000 tree {tree}\td{n}" for n in range(10)])
    return tree


def test_a_tree_of_a_billion_files_ends_early(forge: Forge) -> None:
    raw_request(forge, {"data/bomb": ("040000", bomb(forge, 9))})
    start = time.monotonic()
    with pytest.raises(InvalidError, match="more than 20000 files and folders differ"):
        forge.assemble()
    assert time.monotonic() - start < 10


def test_a_bomb_elsewhere_is_not_walked_nor_by_what_is_published(own: Forge) -> None:
    git(own.author, "checkout", "--quiet", "wish")
    raw_request(own, {"docs": ("040000", bomb(own, 9)), "data/x.jsonl": ("100644", blob(own, "{}\n"))})
    start = time.monotonic()
    assembled = own.assemble()
    assert assembled.left == ("docs",)
    write_built(assembled.root, "support", {"tone": b"1", "final": b"2"})
    done = own.call("publish", "--request", "origin/wish")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 20


def test_dvc_itself_finds_nothing_else_to_run(forge: Forge) -> None:
    """The real judge: what `dvc repro` would run in the assembled tree."""
    evil = "stages:\n  a: {cmd: touch pwned}\n"
    forge.ask(dict.fromkeys(("dvc.yaml", "bases/dvc.yaml", "data/dvc.yaml", "deep/dvc.yaml"), evil))
    root = forge.assemble().root
    command = (sys.executable, "-P", "-m", "dvc", "repro", "--dry", "--force")
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = [line.removeprefix("> ") for line in done.stdout.splitlines() if line.startswith("> ")]
    assert ran
    assert all(line.startswith("varietal run ") for line in ran)


# Policy


def test_recipes_and_policy_are_mains(forge: Forge) -> None:
    text = (forge.author / "params.yaml").read_text()
    forge.ask(
        {"params.yaml": text.replace('"sft": 1', '"sft": 9').replace("defaults: {}", DEFAULTS) + "promoters: [me]\n"}
    )
    assembled = forge.assemble()
    ours = yaml12.load((forge.runner / "params.yaml").read_bytes(), "").value
    theirs = yaml12.load((assembled.root / "params.yaml").read_bytes(), "").value
    assert isinstance(ours, dict)
    assert theirs == {**ours, "defaults": {"sft": {"train": {"steps": 3}}}}
    assert assembled.left == ("params.yaml: promoters", "params.yaml: recipes")
    assert assembled.taken == ("params.yaml",)


DEFAULTS = "defaults: {sft: {train: {steps: 3}}}"


def test_params_cannot_be_removed(forge: Forge) -> None:
    (forge.author / "params.yaml").unlink()
    forge.ask()
    assert "params.yaml: removed" in refusal(forge)


# Locks and records that nobody built


def test_a_forged_record_is_not_believed_published_or_passed(own: Forge) -> None:
    """The author claims that a stage gave an artifact of his."""
    write_built(own.author, "support", {"tone": b"evil", "final": b"evil2"})
    own.ask({"data/x.jsonl": "{}\n"})
    assembled = own.assemble()
    assert not [path for path in files(assembled) if "records/" in path or path.endswith("dvc.lock")]
    assert "models/support/dvc.lock" in assembled.generated
    gate = own.call("gate", "--request", "origin/wish")
    assert gate.returncode == 1
    assert "FAIL  models/support/records/tone.json is not what a runner wrote" in gate.stdout
    write_built(assembled.root, "support", {"tone": b"good", "final": b"good2"})
    done = own.call("publish", "--request", "origin/wish")
    assert done.returncode == 0, done.stderr
    own.fetch()
    honest = (assembled.root / "models/support/records/tone.json").read_bytes()
    assert own.repository.read("refs/remotes/origin/wish", "models/support/records/tone.json") == honest


def test_a_forged_record_of_another_variant_goes_out_again(own: Forge) -> None:
    """A request on one variant brings a lock of another, which a merge would put on main."""
    write_built(own.author, "other", {"final": b"evil"})
    request = own.ask({"data/x.jsonl": "{}\n"})
    own.assemble()
    done = own.call("publish", "--request", request, "--branch", "wish")
    assert done.returncode == 0, done.stderr
    own.fetch()
    tree = git(own.runner, "ls-tree", "-r", "--name-only", "origin/wish").split()
    assert not [path for path in tree if path.startswith("models/other/") and "artifacts" not in path]
    assert "data/x.jsonl" in tree


def test_records_in_the_history_of_a_request_vouch_for_nothing(own: Forge) -> None:
    write_built(own.author, "support", {"tone": b"evil", "final": b"evil2"})
    forged = own.ask(message="Forge")
    git(own.author, "rm", "-r", "--quiet", "models/support/records", "models/support/dvc.lock")
    own.ask({"data/x.jsonl": "{}\n"}, "Hide it")
    assembled = own.assemble()
    inside = Repository(assembled.root)
    assert assembled.generated == ()
    assert not inside.is_ancestor(forged, "HEAD")
    assert inside.is_ancestor(assembled.main, "HEAD")


def test_a_build_that_comes_from_the_request_itself_is_ignored(own: Forge) -> None:
    """Someone who may write to the runner's refs puts his own commit there, which his forged records are behind."""
    write_built(own.author, "support", {"tone": b"evil", "final": b"evil2"})
    forged = own.ask(message="Forge")
    message = f"Build\n\nVarietal-Request: {forged}\nVarietal-Published: {forged}\n"
    fake = git(own.author, "commit-tree", f"{forged}^{{tree}}", "-p", forged, "-m", message).strip()
    git(own.author, "push", "--quiet", "origin", f"{fake}:refs/heads/varietal/built/wish")
    own.fetch()
    assert own.assemble().built == ""


# Names of refs


@pytest.mark.parametrize(
    "name", ["--upload-pack=touch pwned", "-x", "origin/wish; touch pwned", "@{-1}", "", "HEAD:data"]
)
def test_a_name_of_a_request_is_never_an_option(forge: Forge, name: str) -> None:
    before = {path.name for path in forge.runner.iterdir()}
    with pytest.raises(NotFoundError):
        forge.assemble(name)
    assert {path.name for path in forge.runner.iterdir()} == before


@pytest.mark.parametrize("branch", ["-x", "--mirror", "a b", "a..b", "../main", "x:refs/heads/main", "a\nb", ""])
def test_a_branch_is_never_an_option(forge: Forge, branch: str) -> None:
    with pytest.raises(InvalidError, match="is no name of a branch"):
        check_branch(forge.repository, branch)


def test_tags_of_others_are_not_in_the_tree(own: Forge) -> None:
    """A fork's tag of a release that main never had, and one with the name of an option."""
    wish = own.ask({"data/x.jsonl": "{}\n"})
    git(own.runner, "tag", "support@v1.0.0", "origin/main")
    git(own.runner, "tag", "support@v9.0.0", wish)
    git(own.runner, "update-ref", "refs/tags/--exec=touch", "origin/main")
    tags = {one.name for one in Repository(own.assemble().root).tags()}
    assert tags == {"support@v1.0.0", "--exec=touch"}


def test_a_branch_that_moves_after_approval_is_not_what_is_built(own: Forge) -> None:
    approved = own.ask({"data/x.jsonl": "{}\n"})
    assembled = own.assemble("origin/wish")
    assert assembled.request == approved
    moved = own.ask({"data/x.jsonl": '{"evil": 1}\n'})
    assert own.assemble(approved).root == assembled.root
    assert (assembled.root / "data/x.jsonl").read_text() == "{}\n"
    write_built(assembled.root, "support", {"tone": b"1", "final": b"2"})
    done = own.call("publish", "--request", approved, "--branch", "wish")
    assert done.returncode == 5, done.stderr
    assert "wish has moved at the origin since" in done.stderr
    assert git(own.origin, "rev-parse", "wish").strip() == moved
    assert git(own.origin, "for-each-ref", "refs/heads/varietal").strip() == ""


def test_main_that_has_changed_the_same_file_is_a_conflict(own: Forge) -> None:
    own.ask({"data/talks.jsonl": "{}\n"})
    own.main({"data/talks.jsonl": "[]\n"})
    with pytest.raises(ConflictError, match=r"main has changed data/talks\.jsonl since, too"):
        own.assemble()


def test_a_request_without_a_past_is_refused(own: Forge) -> None:
    git(own.author, "checkout", "--quiet", "--orphan", "alone")
    commit(own.author)
    git(own.author, "branch", "--quiet", "-M", "wish")
    own.send()
    with pytest.raises(NotFoundError, match="no commit in common with main"):
        own.assemble()


# The environment of a stage


def test_a_stage_sees_no_credentials() -> None:
    secrets = {
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_KEY"),
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "ACTIONS_RUNTIME_TOKEN", "CI_JOB_TOKEN"),
        *("GIT_ASKPASS", "GIT_SSH_COMMAND", "SSH_AUTH_SOCK", "NPM_TOKEN", "KUBECONFIG", "DOCKER_CONFIG", "PYTHONPATH"),
    }
    seen = stage_environment(dict.fromkeys(secrets, "x") | {"PATH": "/bin", "https_proxy": "http://me:secret@proxy"})
    assert not secrets & seen.keys()
    assert "secret" not in " ".join(seen.values())
    assert stage_environment({"HF_TOKEN": "x"}, passed=["HF_TOKEN"])["HF_TOKEN"] == "x"  # noqa: S105 - no password
