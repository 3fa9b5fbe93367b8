"""A request's tree on disk, put back to its commit before every use: whatever a stage may have left there is not asked.

git runs with a folder of its own outside the tree. The tree's ``.git`` is for DVC and for reading history; it is
written anew, plainly, and holds no object: those are the runner's.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.request.names import home_of
from builder.request.plumbing import git, git_or_none, objects_of, tree_files
from builder.request.stays import is_kept_whole, stays
from builder.work import write_file

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from registry.history import Repository

__all__ = ["lay_out"]

_FILES = frozenset({"100644", "100755", "120000"})  # a link is checked out as a plain file
_SHA1_DIGITS = 40
_ATTRIBUTES = b"* -filter -text -eol -ident -working-tree-encoding\n"
_EXCLUDED = b"/.varietal/\n/.dvc/config.local\n"
_CONFIG = """\
[core]
	repositoryformatversion = {version}
	bare = false
	autocrlf = false
	fileMode = false
	hooksPath = /dev/null
	protectHFS = true
	protectNTFS = true
	symlinks = false
[commit]
	gpgSign = false
[gc]
	auto = 0
[submodule]
	recurse = false
"""


def lay_out(repository: Repository, folder: Path, commit: str, main: str, *, anew: bool) -> None:
    """Put a tree back to a commit; artifacts, work folders and caches stay.

    Args:
        repository: The runner's repository, which has the commit.
        folder: Root of the tree.
        commit: What is checked out.
        main: Commit of main, whose tags the tree gets.
        anew: Whether locks and records become those of the commit too; else they stay as a build left them.

    Raises:
        InvalidError: git cannot check it out.
        MachineError: The disk is full.
    """
    root = repository.root
    folder.mkdir(parents=True, exist_ok=True)
    tracked = {path: one.mode for path, one in tree_files(root, commit).items() if one.mode in _FILES}
    _clean(folder, tracked)
    with _private(repository, commit) as place:
        own = (f"--git-dir={place}", f"--work-tree={folder}")
        git(folder, *own, "read-tree", commit)
        git_or_none(folder, *own, "update-index", "-q", "--refresh")
        wanted = "".join(f"{path}\0" for path in tracked if anew or not home_of(path))
        git(folder, *own, "checkout-index", "--force", "-u", "-z", "--stdin", data=os.fsencode(wanted))
        _give_git(folder / ".git", place, _refs(root, main), (place / "index").read_bytes())


def _refs(root: Path, main: str) -> bytes:
    """Main, whose rules say which channels count, and main's tags; nothing else that lies about here."""
    out = git(root, "for-each-ref", f"--merged={main}", "--format=%(objectname) %(refname)", "--", "refs/tags/")
    return f"{main} refs/remotes/origin/main\n".encode() + out


@contextmanager
def _private(repository: Repository, commit: str) -> Iterator[Path]:
    """A git folder that reads the runner's objects, and has none of its settings; it goes with the block."""
    with tempfile.TemporaryDirectory(prefix="varietal-git-") as name:
        place = Path(name)
        sha256 = len(commit) != _SHA1_DIGITS
        config = _CONFIG.format(version=1 if sha256 else 0)
        files = {
            "HEAD": f"{commit}\n".encode(),
            "config": (config + ("[extensions]\n\tobjectFormat = sha256\n" if sha256 else "")).encode(),
            "info/attributes": _ATTRIBUTES,
            "info/exclude": _EXCLUDED,
            "objects/info/alternates": os.fsencode(f"{objects_of(repository.root)}\n"),
        }
        if cut_off := repository.is_shallow():
            files["shallow"] = cut_off.encode()
        (place / "refs").mkdir()
        for path, data in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data)
        yield place


def _give_git(target: Path, place: Path, refs: bytes, index: bytes) -> None:
    """Make a ``.git`` what it has to be; what is right is not touched, since a build may be reading it."""
    files = {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and path.name != "index" and path.suffix != ".lock"
    }
    files |= {"packed-refs": refs, "index": index}
    folders = {str(parent) for path in files for parent in Path(path).parents} | {"refs"}
    if target.is_symlink() or target.is_file():
        target.unlink()
    target.mkdir(exist_ok=True)
    for path in _below(target):
        name = str(path.relative_to(target))
        if not (_is_plain(path) and name in files) and not (_is_folder(path) and name in folders):
            _remove(path)
    for name in sorted(folders - {"."}):
        (target / name).mkdir(exist_ok=True)
    for name, data in files.items():
        if not (target / name).exists() or (target / name).read_bytes() != data:
            write_file(target / name, data)


def _below(folder: Path) -> Iterator[Path]:
    """Everything below a folder, each before what is in it, so that it can be removed meanwhile."""
    for path in sorted(folder.iterdir()):
        yield path
        if _is_folder(path):
            yield from _below(path)


def _clean(folder: Path, tracked: Mapping[str, str]) -> None:
    """Take out what neither the commit has nor a build leaves; a link in place of a file or folder goes, too."""
    folders = {str(parent) for path in tracked for parent in Path(path).parents} - {"."}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for full in [*(folder / prefix).iterdir()]:
            path = f"{prefix}{full.name}"
            if is_kept_whole(path) and _is_folder(full):
                continue
            if _is_folder(full) and path not in tracked:
                waiting.append(f"{path}/")
            elif not _may_lie(full, path, tracked, folders):
                _remove(full)


def _may_lie(full: Path, path: str, tracked: Container[str], folders: Container[str]) -> bool:
    if path in tracked:
        return _is_plain(full)
    return path not in folders and stays(path, tracked, is_link=full.is_symlink())


def _is_plain(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode) if os.path.lexists(path) else False


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
