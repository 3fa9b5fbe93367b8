"""A plan -> tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.drive.tasks import records_address, tasks_of
from builder.edges import Address
from builder.graph import build_graph
from builder.load import load
from builder.plan.values import Estimate, PlannedStage
from registry.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.drive.schedule import Task
    from builder.graph import Node
    from builder.plan.values import Verdict

MANIFEST = """\
schema: 1
base: tiny
data: {talks: {path: talks.jsonl, format: messages}}
stages:
  NAME: {kind: sft, from: base, data: talks, adapter: {rank: 2}}
  folded: {kind: fold, from: base, adapters: {NAME: 1.0}}
release: folded
"""
TINY, TONE, FOLDED = (Address(variant=a, stage=b) for a, b in (("bases", "tiny"), ("one", "tone"), ("one", "folded")))
VOICE = Address(variant="two", stage="voice")
RECORDS, BASE_RECORDS = Address(variant="one", stage="records"), Address(variant="bases", stage="records@tiny")


@pytest.fixture
def graph(tmp_path: Path) -> dict[Address, Node]:
    (tmp_path / "params.yaml").write_text(
        f'bases: {{tiny: {{path: sources, sha256: "{"0" * 64}"}}}}\nrecipes: {{sft: 1, fold: 1, import: 1}}\n'
    )
    (tmp_path / "talks.jsonl").write_text("{}\n")
    for variant, name in (("one", "tone"), ("two", "voice")):
        (tmp_path / "models" / variant).mkdir(parents=True)
        (tmp_path / "models" / variant / "model.yaml").write_text(MANIFEST.replace("NAME", name))
    return build_graph(load(tmp_path))


def planned(graph: Mapping[Address, Node], verdicts: Mapping[Address, Verdict]) -> list[PlannedStage]:
    return [
        PlannedStage(
            address=address,
            kind=graph[address].kind,
            verdict=verdict,
            needs=tuple(edge.source for edge in graph[address].edges if isinstance(edge.source, Address)),
            estimate=Estimate(duration_s=7.0),
        )
        for address, verdict in verdicts.items()
    ]


def lock(md5: str, *, copied: str = "", stages: tuple[str, ...] = ("tone", "folded")) -> Lock:
    """A lock with a record of that md5 for each stage, and the copy of records made from another."""
    text = "schema: '2.0'\nstages:\n"
    for name in stages:
        text += f"  {name}:\n    cmd: x\n    outs:\n"
        text += f"    - {{path: models/one/artifacts/{name}.json, md5: {md5}, size: 1}}\n"
    if copied:
        text += "  records:\n    cmd: x\n    deps:\n"
        for name in stages:
            text += f"    - {{path: models/one/artifacts/{name}.json, md5: {copied}, size: 1}}\n"
    return Lock.parse(text, where="dvc.lock")


def by_address(tasks: tuple[Task, ...]) -> dict[Address, Task]:
    return {task.address: task for task in tasks}


def test_every_stage_that_is_not_kept_and_the_records_after_them(graph: dict[Address, Node]) -> None:
    stages = planned(graph, {TINY: "run", TONE: "reuse", FOLDED: "maybe"})
    tasks = by_address(tasks_of(stages, graph, {}))
    assert set(tasks) == {TINY, TONE, FOLDED, RECORDS, BASE_RECORDS}
    assert tasks[TONE].needs == {TINY}
    assert tasks[FOLDED].needs == {TINY, TONE}
    assert tasks[RECORDS].needs == {TONE, FOLDED}
    assert tasks[BASE_RECORDS].needs == {TINY}
    assert tasks[TONE].weight_s == 7.0


def test_what_is_kept_is_waited_for_by_none(graph: dict[Address, Node]) -> None:
    stages = planned(graph, {TINY: "keep", TONE: "keep", FOLDED: "run"})
    tasks = by_address(tasks_of(stages, graph, {"one": lock("a" * 32, copied="a" * 32)}))
    assert tasks[FOLDED].needs == frozenset()
    assert tasks[RECORDS].needs == {FOLDED}


def test_a_build_of_nothing_has_no_tasks(graph: dict[Address, Node]) -> None:
    stages = planned(graph, {TONE: "keep", FOLDED: "keep"})
    assert tasks_of(stages, graph, {"one": lock("a" * 32, copied="a" * 32)}) == ()


@pytest.mark.parametrize("copied", ["", "b" * 32])
def test_records_that_an_earlier_build_did_not_come_to_are_copied(graph: dict[Address, Node], copied: str) -> None:
    stages = planned(graph, {TONE: "keep", FOLDED: "keep"})
    tasks = by_address(tasks_of(stages, graph, {"one": lock("a" * 32, copied=copied)}))
    assert set(tasks) == {RECORDS}
    assert tasks[RECORDS].needs == frozenset()


def test_records_wait_where_another_stage_was_never_built(graph: dict[Address, Node]) -> None:
    """Only one stage was asked for: DVC could not copy a record that there is not."""
    tasks = by_address(tasks_of(planned(graph, {TINY: "run", TONE: "run"}), graph, {}))
    assert set(tasks) == {TINY, TONE, BASE_RECORDS}


def test_one_stage_of_a_built_variant_is_recorded(graph: dict[Address, Node]) -> None:
    stages = planned(graph, {TONE: "run"})
    assert set(by_address(tasks_of(stages, graph, {"one": lock("a" * 32)}))) == {TONE, RECORDS}


def test_stages_that_do_the_very_same_are_twins_whatever_they_are_called(graph: dict[Address, Node]) -> None:
    stages = planned(graph, {TINY: "run", TONE: "run", FOLDED: "run", VOICE: "run"})
    tasks = by_address(tasks_of(stages, graph, {}))
    assert tasks[TONE].twin == tasks[VOICE].twin != ""
    assert len({tasks[one].twin for one in (TINY, TONE, FOLDED)}) == 3


def test_where_records_are_copied() -> None:
    assert records_address(TONE) == RECORDS
    assert records_address(TINY) == BASE_RECORDS
