"""What the processes of a build that talk to a remote are told by it: on their command line, never out of the tree.

The tree of a request lies where stages can write. What is signed, and whose word is believed, follows from what the
build knew before its first stage ran.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from builder.request.assembled import Assembled
from builder.request.plumbing import git
from registry.canonical import decode, encode
from registry.errors import NotFoundError
from registry.history import Repository
from registry.progress_note import Scope
from registry.runners import BuildKind
from registry.table import Table

if TYPE_CHECKING:
    from registry.canonical import JSON

__all__ = ["Errand", "errand_of"]

_WHERE = "an errand of the build"
_MOST_SCOPES = 32  # earlier states of the request, or commits of the branch, whose notes are looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """What such a process is told.

    Attributes:
        root: Root of the tree that is built.
        home: Root of the runner's repository, whose git is asked, whose remotes are reached, and whose settings say
            which key signs; those of a request's tree never do.
        remote: Name of the DVC remote; empty for the default one.
        kind: Whether a request is built.
        commits: Whose notes count: the commit that is built, then those before it; none where no notes are known.
        base: Commit that the tree was at when the build began: what it records needs no note.
        signs: Whether notes are signed; where the key lies is for nobody's list of processes.
    """

    root: Path
    home: Path
    remote: str = ""
    kind: BuildKind = "branches"
    commits: tuple[str, ...] = ()
    base: str = ""
    signs: bool = False

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Builds whose notes count, this one first."""
        return tuple(Scope(kind=self.kind, commit=commit) for commit in self.commits)

    def to_text(self) -> str:
        """For a command line."""
        value: JSON = {
            "root": str(self.root),
            "home": str(self.home),
            "remote": self.remote,
            "kind": self.kind,
            "commits": [*self.commits],
            "base": self.base,
            "signs": "yes" if self.signs else "no",
        }
        return encode(value).decode()

    @classmethod
    def from_text(cls, text: str) -> Errand:
        """Read what :meth:`to_text` wrote.

        Raises:
            InvalidError: It did not.
        """
        table = Table(decode(text.encode(), where=_WHERE), _WHERE)
        table.only("root", "home", "remote", "kind", "commits", "base", "signs")
        return cls(
            root=Path(table.text("root")),
            home=Path(table.text("home")),
            remote=table.text("remote"),
            kind=table.choice("kind", get_args(BuildKind)),
            commits=table.texts("commits"),
            base=table.text("base"),
            signs=table.choice("signs", ("yes", "no")) == "yes",
        )


def errand_of(root: Path, request: Assembled | None) -> Errand:
    """What a build has to tell, but for its remote and whether it signs.

    Args:
        root: Root of the tree that is built.
        request: The request that it is of, as it was assembled a moment ago; ``None`` for a checkout.

    Raises:
        InvalidError: git cannot read the history.
    """
    if request is not None:
        own = _commits(request.home, request.request, f"^{request.main}")
        commits = tuple(dict.fromkeys((request.request, *own)))
        return Errand(root=root, home=request.home, kind="requests", commits=commits, base=request.commit)
    if Assembled.read(root) is not None:  # somebody builds in a request's tree by hand: of which state, nobody can say
        return Errand(root=root, home=root, kind="requests")
    try:
        head = Repository(root).head()
    except NotFoundError:
        return Errand(root=root, home=root)
    return Errand(root=root, home=root, commits=_commits(root, head), base=head)


def _commits(root: Path, *revisions: str) -> tuple[str, ...]:
    """Commits of one line of work, newest first: what was merged into it is another's."""
    return tuple(git(root, "rev-list", "--first-parent", f"--max-count={_MOST_SCOPES}", *revisions).decode().split())
