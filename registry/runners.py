"""Which runners are believed where a build goes on from what they finished, as ``runners:`` of params.yaml says.

A runner that builds requests runs files of strangers, one that builds branches does not: each list counts for its own
kind of build alone. The rule is that of params.yaml on the main branch as it is known here now, never a request's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from registry import yaml12
from registry.errors import NotFoundError
from registry.record import BASES, manifest_file
from registry.ssh_key import PublicKey
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON
    from registry.history import Repository

__all__ = ["BuildKind", "RunnerRules", "read_runner_rules", "runner_rules_of"]

BuildKind: TypeAlias = Literal["requests", "branches"]
"""What is built: requests, in trees that are assembled; or main and branches of people with access, as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerRules:
    """Whose progress notes are believed.

    Attributes:
        requests: Public keys, by the name of the runner, of those that build requests.
        branches: Of those that build main and trusted branches.
    """

    requests: Mapping[str, PublicKey] = field(default_factory=dict)
    branches: Mapping[str, PublicKey] = field(default_factory=dict)

    def of(self, kind: BuildKind) -> Mapping[str, PublicKey]:
        """The runners of one kind of build."""
        return self.requests if kind == "requests" else self.branches


def read_runner_rules(params: JSON, *, where: str) -> RunnerRules:
    """The rules of params.yaml; nobody is believed where it has no ``runners:``.

    Other keys are not looked at: a rule must hold in a repository whose params.yaml is of another version too.

    Raises:
        InvalidError: The rules break their schema; nobody can be believed then.
    """
    table = Table(params, where)
    if "runners" not in table.names():
        return RunnerRules()
    runners = table.table("runners")
    known = {name: _read_keys(runners.table(name)) for name in ("requests", "branches") if name in runners.names()}
    runners.only(*known)
    return RunnerRules(**known)


def runner_rules_of(repository: Repository) -> RunnerRules:
    """The rules on the main branch; nobody is believed where none is known.

    Raises:
        InvalidError: params.yaml there cannot be read.
        MachineError: git is missing.
    """
    path = str(manifest_file(BASES))
    try:
        commit = repository.resolve(repository.main_branch())
    except NotFoundError:
        return RunnerRules()
    data = next(repository.read_blobs([f"{commit}:{path}"]))
    where = f"{path} at {commit[:12]}, the main branch"
    return RunnerRules() if data is None else read_runner_rules(yaml12.load(data, where).value, where=where)


def _read_keys(table: Table) -> dict[str, PublicKey]:
    return {name: PublicKey.parse(table.text(name), where=table.where) for name in table.names()}
