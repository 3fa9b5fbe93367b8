"""The plan of a repository that real stages built: nothing to do, and the expected actions are those that ran."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from builder.graph import build_graph
from builder.load import load
from builder.plan.repository import plan_repository
from builder.plan.reusable import action_of
from registry.record import Record, git_record

if TYPE_CHECKING:
    from builder.address import Address
    from builder.edges import Edge
    from registry.digest import Digest
    from tests.team import Team


def test_a_built_repository_needs_nothing(built: Team) -> None:
    plan = plan_repository(built.root)
    assert plan.is_empty
    assert plan.notes == ()


def test_the_expected_action_is_the_one_that_ran(built: Team) -> None:
    """`varietal run` and the plan must not differ on what a stage does, or reuse is promised and does not happen."""
    graph = build_graph(load(built.root))
    records = {address: _record(built, address) for address in graph}
    digests = {one.digest for record in records.values() for one in record.inputs}
    for address, record in records.items():

        def digest_of(edge: Edge, record: Record = record) -> Digest:
            (found,) = {one.digest for one in record.inputs if (one.role, one.name) == (edge.role, edge.name)}
            return found

        action = action_of(graph[address], digest_of)
        assert action is not None
        assert action.digest == record.action.digest, address
    assert digests


def test_reuse_is_promised_where_it_happens(team: Team) -> None:
    """A copied variant and a manifest that goes back: the plan says reuse, and the build computes nothing."""
    (team.root / "models/copy").mkdir()
    shutil.copy(team.root / "models/support/model.yaml", team.root / "models/copy/model.yaml")
    team.must("varietal", "compile")
    plan = plan_repository(team.root)
    assert {str(one.address): one.reuse for one in plan.stages if one.verdict != "keep"} == {
        f"copy:{stage}": f"support:{stage}" for stage in ("tone", "toned", "pref", "final", "score")
    }
    team.must("dvc", "repro")
    for stage in ("tone", "toned", "pref", "final", "score"):
        assert team.record(stage, "copy").reused_from == f"support:{stage}"
    assert plan_repository(team.root).is_empty


def _record(team: Team, address: Address) -> Record:
    path = team.root / git_record(address.variant, address.stage)
    return Record.from_bytes(path.read_bytes(), where=str(path))
