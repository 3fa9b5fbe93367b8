"""The verdict on each stage, by the rules of DVC, from what is found; each stage after those that it reads from.

1. A stage whose lock differs in command, values, data or a settled input runs: DVC runs it whatever else comes out.
2. If its inputs are known and an artifact of the same action exists, or will exist when an earlier stage of this plan
   has run, that one is linked: ``reuse``.
3. A stage that differs in nothing, but reads from one whose artifact is not settled yet, is ``maybe``.
4. What comes of a reused stage is settled only where one artifact alone claims the action and its bytes are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.address import Address, CodeFile, DataFile
from builder.places import beside_of, folder_of
from builder.plan.changes import Finding, changed_values, command_change
from builder.plan.reusable import action_of, stand_in
from builder.plan.values import PlannedStage, sorted_by_needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.graph import Edge, Node
    from builder.plan.evidence import Evidence
    from builder.plan.reusable import Earlier, Found
    from builder.plan.values import Verdict
    from registry.digest import Digest
    from registry.lock import LockedStage

__all__ = ["Judge", "Outcome", "in_order", "needs_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a stage will have given when its turn has passed.

    Attributes:
        verdict: What is done with it.
        oid: DVC's name of its folder; empty where that is not settled.
        digest: Its artifact's digest, or what stands in for it; ``None`` where nothing is known.
        is_real: Whether ``digest`` is that of an artifact.
        found: The artifact that is linked, where it exists already.
    """

    verdict: Verdict
    oid: str = ""
    digest: Digest | None = None
    is_real: bool = False
    found: Found | None = None


def in_order(graph: Mapping[Address, Node]) -> tuple[Address, ...]:
    """Every stage after those that it reads from, else as the graph has them."""
    return sorted_by_needs({address: needs_of(node) for address, node in graph.items()})


def needs_of(node: Node) -> tuple[Address, ...]:
    """The stages that a stage reads from, each once."""
    return tuple(dict.fromkeys(edge.source for edge in node.edges if isinstance(edge.source, Address)))


class Judge:
    """Judges stages one after another, and keeps what each will have given."""

    def __init__(self, evidence: Evidence, earlier: Earlier, settled: Mapping[Address, str]) -> None:
        """Begin.

        Args:
            evidence: What is found in the repository.
            earlier: Finds artifacts of the same action.
            settled: Stages that are known to be kept, with DVC's name of each one's folder.
        """
        self._evidence = evidence
        self._earlier = earlier
        self.outcomes = {address: Outcome(verdict="keep", oid=oid) for address, oid in settled.items()}
        self._pending: dict[Digest, Address] = {}

    def judge(self, node: Node) -> PlannedStage:
        """The verdict on one stage; those that it reads from were judged, or are settled.

        Raises:
            InvalidError: A lock cannot be read.
            MachineError: git is missing.
        """
        address, locked = node.address, self._evidence.locked(node.address)
        findings = [Finding(reason="was never built")] if locked is None else [*self._findings(node, locked)]
        reuse = ""
        if any(one.certain for one in findings):
            verdict, reuse, outcome = self._run(node)
        elif findings:
            verdict = "maybe"
            outcome = Outcome(verdict=verdict, digest=stand_in(f"{address}, perhaps"))
        else:
            verdict = "keep"
            outcome = Outcome(verdict=verdict, oid=self._kept_oid(address, locked))
        self.outcomes[address] = outcome
        return PlannedStage(
            address=address,
            kind=node.kind,
            verdict=verdict,
            reasons=tuple(dict.fromkeys(one.reason for one in findings)),
            reuse=reuse,
            needs=needs_of(node),
        )

    def _findings(self, node: Node, locked: LockedStage) -> Iterator[Finding]:
        if another := [*command_change(node, locked)]:
            yield from another  # nothing else in such a lock is this stage's
            return
        yield from changed_values(node, locked, self._evidence.value)
        for edge in node.edges:
            yield from self._input_findings(edge, locked)
        yield from self._output_findings(node.address, locked)

    def _input_findings(self, edge: Edge, locked: LockedStage) -> Iterator[Finding]:
        if isinstance(edge.source, DataFile):
            path = edge.source.path
            said = f"{'code' if isinstance(edge.source, CodeFile) else 'data'} {edge.name} ({path})"
            now = self._evidence.data_md5(path)
            before = locked.dependencies.get(path)
            if before is None:
                yield Finding(reason=f"{said} is new to it")
            elif now is not None and now != before.md5:
                yield Finding(reason=f"{said} changed" if now else f"{said} is not here")
            return
        outcome, said = self.outcomes[edge.source], f"input {edge.name}"
        before = locked.dependencies.get(folder_of(edge.source))
        if before is None:
            yield Finding(reason=f"{said} is new to it")
        elif outcome.oid and outcome.oid != before.md5:
            changes = "is not what it was built with" if outcome.verdict == "keep" else "changes"
            yield Finding(reason=f"{said} {changes}")
        elif not outcome.oid:
            again = "may change" if outcome.verdict == "maybe" else "is built again"
            yield Finding(reason=f"{said} {again}", certain=False)

    def _output_findings(self, address: Address, locked: LockedStage) -> Iterator[Finding]:
        """Outputs that are not those of the lock; of those that DVC's cache lacks, DVC says nothing."""
        for path, now, said in (
            (folder_of(address), self._evidence.folder_md5(address), "its artifact"),
            (beside_of(address), self._evidence.beside_md5(address), "its record"),
        ):
            output = locked.outputs.get(path)
            if output is None:
                yield Finding(reason=f"the lock says nothing of {path}", certain=bool(now))
            elif now and now != output.md5:
                reason = f"{said} was changed in the work tree: {path}"
                yield Finding(reason=reason, certain=self._evidence.is_cached(output.md5))

    def _kept_oid(self, address: Address, locked: LockedStage | None) -> str:
        path = folder_of(address)
        return locked.outputs[path].md5 if locked is not None and path in locked.outputs else ""

    def _run(self, node: Node) -> tuple[Verdict, str, Outcome]:
        """A stage that DVC runs: computed, or linked from where the same was done or will be done."""
        action = action_of(node, self._digest)
        if action is None:
            return "run", "", Outcome(verdict="run", digest=stand_in(str(node.address)))
        if all(self._is_real(edge) for edge in node.edges):
            found = self._earlier.find(node, action)
            if found is not None:
                digest = found.record.artifact.digest
                oid = found.oid if found.sure else ""
                return "reuse", found.ref, Outcome(verdict="reuse", oid=oid, digest=digest, is_real=True, found=found)
        expected = stand_in(str(action.digest))
        first = self._pending.setdefault(action.digest, node.address)
        if first != node.address:
            return "reuse", str(first), Outcome(verdict="reuse", digest=expected)
        return "run", "", Outcome(verdict="run", digest=expected)

    def _digest(self, edge: Edge) -> Digest | None:
        if isinstance(edge.source, DataFile):
            return self._evidence.sha256(edge.source.path)
        outcome = self.outcomes[edge.source]
        if outcome.verdict != "keep":
            return outcome.digest
        record = self._evidence.record(edge.source)
        return None if record is None else record.artifact.digest

    def _is_real(self, edge: Edge) -> bool:
        if isinstance(edge.source, DataFile):
            return True
        outcome = self.outcomes[edge.source]
        return outcome.verdict == "keep" or outcome.is_real
