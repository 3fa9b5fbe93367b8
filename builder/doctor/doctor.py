"""Looks at everything that a repository needs of a machine; what breaks while it looks is a finding, too."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from builder.doctor.disk import disk_findings
from builder.doctor.dvc import dvc_findings
from builder.doctor.finding import failed, of_error
from builder.doctor.git import git_findings
from builder.doctor.gpu import gpu_findings
from builder.doctor.packages import package_findings
from builder.doctor.remote import remote_findings
from registry.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from builder.doctor.finding import Finding
    from registry.history import Repository

__all__ = ["examine"]


def examine(repository: Repository, store: Path, *, build: bool, request: bool = False) -> Iterator[Finding]:
    """Every finding, as it is made.

    Args:
        repository: The repository.
        store: Folder of the local content store.
        build: Whether this machine shall build; else what only a build needs is no failure.
        request: Whether it shall build requests: their bytes go to quarantine, and nowhere else.
    """
    root = repository.root
    looks: dict[str, Callable[[], Iterable[Finding]]] = {
        "git": partial(git_findings, repository),
        "DVC": partial(dvc_findings, root, build=build),
        "remotes": partial(remote_findings, root, build=build, request=request),
        "disk": partial(disk_findings, root, store),
        "GPU": partial(gpu_findings, root, build=build),
        "packages": partial(package_findings, root, build=build),
    }
    for subject, look in looks.items():
        try:
            yield from look()
        except Error as error:
            yield of_error(subject, error)
        except OSError as error:
            said = f"cannot be looked at: {error.strerror or error} ({error.filename or root})"
            yield failed(subject, said, "check its permissions and the disk")
