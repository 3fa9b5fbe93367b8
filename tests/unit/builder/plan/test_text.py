from __future__ import annotations

import pytest

from builder.address import Address
from builder.plan.markdown import comment
from builder.plan.text import describe, say_bytes, say_seconds
from builder.plan.values import Estimate, Plan, PlannedStage, PlannedVariant, sorted_by_needs, total

_TONE, _PREF, _FINAL, _COPY = (Address(variant="a", stage=name) for name in ("tone", "pref", "final", "copy"))
_PLAN = Plan(
    stages=(
        PlannedStage(address=_TONE, kind="sft", verdict="keep"),
        PlannedStage(
            address=_PREF,
            kind="dpo",
            verdict="run",
            reasons=("stages.pref.train.beta: 0.1 -> 0.2",),
            needs=(_TONE,),
            estimate=Estimate(
                size_bytes=20 << 20,
                gpu_memory_mib=16 * 1024,
                duration_s=600.0,
                duration_spread_s=30.0,
                downloads_bytes=1 << 30,
            ),
        ),
        PlannedStage(
            address=_COPY,
            kind="fold",
            verdict="reuse",
            reasons=("was never built",),
            reuse="b:final",
            estimate=Estimate(size_bytes=5, downloads_bytes=0),
        ),
        PlannedStage(
            address=_FINAL,
            kind="fold",
            verdict="maybe",
            reasons=("input pref is built again",),
            needs=(_PREF,),
            estimate=Estimate(size_bytes=2 << 30, duration_s=60.0, downloads_bytes=0),
        ),
    ),
    notes=("a note",),
    variants=(
        PlannedVariant(
            name="a",
            state="changed",
            changes=("stages.pref.train.beta: 0.1 -> 0.2",),
            checks=("loss of score must be at most 0.4",),
            affects=("b",),
            releases=("a@v1.0.0 is the newest release", "a#prod is v1.0.0"),
        ),
        PlannedVariant(name="c", state="new", checks=None),
        PlannedVariant(name="d", state="renamed", renamed_from="e"),
    ),
)


def test_the_text() -> None:
    assert describe(_PLAN, card_mib=8 * 1024) == [
        "new variant c",
        "variant d was called e",
        "run    a:pref (dpo)  [10 min +- 30 s, GPU 16 GiB of 8.0 GiB: more than the card has, 20 MiB, fetches 1.0 GiB]",
        "       stages.pref.train.beta: 0.1 -> 0.2",
        "reuse  a:copy (fold) of b:final  [5 B]",
        "       was never built",
        "maybe  a:final (fold)  [60 s, 2.0 GiB]",
        "       input pref is built again",
        "",
        "1 run, 1 reuse, 1 maybe, 1 keep; certainly 10 min +- 30 s, GPU 16 GiB, 20 MiB, fetches 1.0 GiB",
        "note: a note",
    ]


def test_an_empty_plan() -> None:
    plan = Plan(stages=(PlannedStage(address=_TONE, kind="sft", verdict="keep"),))
    assert plan.is_empty
    assert describe(plan) == ["nothing to do: 1 stage is what its manifest says"]
    assert comment(plan).startswith("### Plan: nothing to build\n\n1 stage is what its manifest says.\n")


def test_a_plan_of_records_alone() -> None:
    stages = (PlannedStage(address=_TONE, kind="sft", verdict="keep"),)
    plan = Plan(stages=stages, copies=(_TONE,), notes=("a note",))
    assert not plan.is_empty
    assert plan.to_json()["copies"] == [str(_TONE)]
    assert describe(plan) == ["1 stage is what its manifest says; 1 record to put back", "note: a note"]
    assert comment(plan).startswith("### Plan: 1 record to put back\n\n1 stage is what its manifest says.\n")


def test_the_comment() -> None:
    text = comment(_PLAN, card_mib=80 * 1024)
    cost = "10 min +- 30 s, GPU 16 GiB of 80 GiB, 20 MiB, fetches 1.0 GiB"
    assert text.startswith("### Plan: 1 to run, 1 reused, 1 that may follow, 1 kept\n")
    for line in (
        "| time | 10 min ± 30 s, up to 11 min if all that may follow does, one stage after another |",
        "| GPU memory | 16 GiB at least, of 80 GiB |",
        "| new artifacts | 20 MiB to 2.0 GiB |",
        "| to fetch first | 1.0 GiB |",
        "**`a`** (changed)",
        "- `stages.pref.train.beta: 0.1 -> 0.2`",
        "Also touches `b`.",
        "Released: `a@v1.0.0 is the newest release`, `a#prod is v1.0.0`. None of these moves before the next release.",
        "- `loss of score must be at most 0.4`",
        "The gate will say no: the manifest has no `checks:`.",
        "**`d`** (renamed from `e`)",
        f"| **run** | `a:pref` dpo | `stages.pref.train.beta: 0.1 -> 0.2` | {cost} |",
        "| reuse the artifact of `b:final` | `a:copy` fold | `was never built` | 5 B |",
        "#### To mend first",
        "- `a note`",
    ):
        assert line in text.splitlines()
    assert "**16 GiB at least, the card has 8.0 GiB**" in comment(_PLAN, card_mib=8 * 1024)


def test_a_comment_never_grows_beyond_what_a_forge_takes() -> None:
    stage = _PLAN.stages[1]
    long = tuple(f"{'k' * 200}: {'x' * 200} -> {number}" for number in range(50))
    stages = tuple(
        PlannedStage(address=Address(variant="v" * 64, stage=f"s{number}"), kind="dpo", verdict="run", reasons=long)
        for number in range(500)
    )
    variants = tuple(
        PlannedVariant(name=f"v{number}", state="changed", changes=long, checks=long, affects=long, releases=long)
        for number in range(500)
    )
    text = comment(Plan(stages=(stage, *stages), notes=long, variants=variants))
    assert len(text) < 65_536
    assert text.endswith("Cut here: `varietal plan` says all of it.\n")
    short = tuple(one[150:210] for one in long)
    variants = tuple(PlannedVariant(name=f"v{number}", state="changed", changes=short) for number in range(500))
    text = comment(Plan(stages=_PLAN.stages * 100, notes=short, variants=variants))
    assert "and 480 more variants" in text
    assert "and 260 more stages" in text


def test_json_has_the_documented_keys() -> None:
    value = _PLAN.to_json()
    assert sorted(value) == ["against", "at_most", "certain", "copies", "notes", "stages", "variants"]
    assert value["stages"][1] == {  # type: ignore[index]
        "stage": "a:pref",
        "kind": "dpo",
        "verdict": "run",
        "reasons": ["stages.pref.train.beta: 0.1 -> 0.2"],
        "reuse": None,
        "needs": ["a:tone"],
        "estimate": {
            "size_bytes": 20 << 20,
            "gpu_memory_mib": 16 * 1024,
            "duration_s": 600.0,
            "duration_spread_s": 30.0,
            "downloads_bytes": 1 << 30,
            "does_not_fit": None,
        },
    }


def test_totals() -> None:
    certain, at_most = total(_PLAN.stages, "run", "reuse"), total(_PLAN.stages, "run", "reuse", "maybe")
    assert (certain.duration_s, at_most.duration_s, certain.gpu_memory_mib) == (600.0, 660.0, 16 * 1024)
    assert total(_PLAN.stages, "keep") == Estimate()


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (1 << 30, "1.0 GiB"), (3 << 41, "6.0 TiB")],
)
def test_sizes(size: int, said: str) -> None:
    assert say_bytes(size) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, "0.2 s"), (12.4, "12 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert say_seconds(seconds) == said


def test_the_order_of_stages() -> None:
    assert sorted_by_needs({_FINAL: (_PREF,), _PREF: (_TONE,), _TONE: (), _COPY: ()}) == (_TONE, _PREF, _FINAL, _COPY)
    elsewhere = Address(variant="b", stage="x")
    assert sorted_by_needs({_FINAL: (elsewhere,)}) == (_FINAL,)
