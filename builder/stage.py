"""What a stage function is given and gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from builder.runner import Runner
    from registry.artifact import Artifact, ArtifactType
    from registry.canonical import JSON
    from registry.digest import Digest
    from registry.record import ComponentChange, Renumbered
    from registry.safetensors import WrittenFile

__all__ = ["Context", "Input", "Outcome"]

Settings_co = TypeVar("Settings_co", covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One input of a running stage, its bytes verified.

    Attributes:
        role: ``from``, ``base`` (the model under an adapter), ``against``, ``against_base``, ``adapter``, ``data`` or
            ``eval`` (what a training is held against).
        name: The manifest's word for it.
        path: Folder of an artifact, or a data file.
        digest: Artifact digest, or digest of the data file.
        artifact: Listing of the folder; ``None`` for data.
        format: What the rows of data are, as the manifest says it; empty for an artifact.
        settings: What the stage says on this input alone, such as ``{"weight": 0.4}``.
        source: Where it came from, as a record says it.
        ancestors: Weights digests of the models that this one was made from, itself left out.
        row_ancestors: Those of them whose tokens have the same rows of embedding and head; ``None``: all of them.
    """

    role: str
    name: str
    path: Path
    digest: Digest
    artifact: Artifact | None
    format: str
    settings: Mapping[str, JSON]
    source: str
    ancestors: frozenset[Digest] = frozenset()
    row_ancestors: frozenset[Digest] | None = None

    @property
    def weights_digest(self) -> Digest | None:
        """Digest of the weights; ``None`` for data."""
        return None if self.artifact is None else self.artifact.weights_digest

    @property
    def file(self) -> str:
        """Path of a file from the root, as faults in it name it."""
        return self.source.removeprefix("data:").removeprefix("code:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Context(Generic[Settings_co]):
    """All that a stage function may use.

    Attributes:
        settings: The stage's table of the manifest, defaults filled in.
        inputs: Verified inputs.
        work: Folder that survives a kill; its name is the action's digest, so no other work's state is ever in it.
        out: Empty folder to put the artifact's files into.
        root: Root of the repository, for sources that the settings name by path.
        runner: What belongs to this machine.
        say: Tells the person at the terminal; one line without a newline.
    """

    settings: Settings_co
    inputs: tuple[Input, ...]
    work: Path
    out: Path
    root: Path
    runner: Runner
    say: Callable[[str], None]

    def all(self, role: str) -> tuple[Input, ...]:
        """Every input of a role, in the manifest's order."""
        return tuple(one for one in self.inputs if one.role == role)

    def find(self, role: str) -> Input | None:
        """The input of a role that may be absent."""
        found = self.all(role)
        return found[0] if found else None

    def one(self, role: str) -> Input:
        """The input of a role that must be there.

        Raises:
            InvalidError: There is none, or several.
        """
        found = self.all(role)
        if len(found) != 1:
            raise InvalidError(
                f"{len(found)} inputs of role {role!r}, expected one",
                where="stage",
                mend="run `varietal lint`, then `varietal compile`",
            )
        return found[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a stage function made in ``out``.

    Attributes:
        type: What the folder is.
        written: Files whose digests the writer knows; all others are hashed afterwards.
        components: What changed in the network.
        metrics: Label -> ``{"value": x}``, with ``"against": y`` where a second artifact was measured.
        depends_on: What else the bytes depend on, such as ``device`` and ``versions``; empty for bytes that any machine
            gives again.
        device: What it ran on.
        micro_batch: Rows at once on one device; 0 where that does not apply.
        notes: What a reader of the record should know.
        renumbered: Inputs of which something has another number in the result.
        device_memory_mib: Largest memory of one GPU that was allocated, MiB; 0 where nobody looked.
        curve: What was measured step by step: lines of a table, tab-separated, the header first.
        environment: Facts of the processes that computed it, where that was not this one.
    """

    type: ArtifactType
    written: tuple[WrittenFile, ...] = ()
    components: tuple[ComponentChange, ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    device: str = "cpu"
    micro_batch: int = 0
    notes: tuple[str, ...] = ()
    renumbered: tuple[Renumbered, ...] = ()
    device_memory_mib: float = 0.0
    curve: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
