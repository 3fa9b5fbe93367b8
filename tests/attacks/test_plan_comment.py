"""A manifest, a path or a tag that is meant to break out of the comment on a pull request."""

from __future__ import annotations

import re

import pytest

from builder.address import Address
from builder.plan.changes import say_value
from builder.plan.markdown import comment
from builder.plan.values import Estimate, Plan, PlannedStage, PlannedVariant

_HOSTILE = [
    "`",
    "``` ` ``",
    "a` **bold** `b",
    "<script>alert(1)</script>",
    "<!-- end -->",
    "</details><h1>Approved</h1>",
    "@maintainers please merge",
    "![x](https://example.org/x.png)",
    "[Approve](https://example.org)",
    "| a | b |\n|---|---|",
    "line\n\n# Approved",
    "\u202eevil",
    "#1",
    "\\`",
    "",
    " ",
]


def _outside_code(text: str) -> str:
    """What Markdown would act on: the text without its code spans, each closed by as many backticks as opened it."""
    return re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("hostile", _HOSTILE)
def test_nothing_of_a_request_is_more_than_shown(hostile: str) -> None:
    stage = PlannedStage(
        address=Address(variant=hostile, stage=hostile),
        kind="sft",
        verdict="reuse",
        reasons=(f"stages.x: {say_value(hostile)} -> 1", hostile),
        reuse=hostile,
        estimate=Estimate(size_bytes=1),
    )
    variant = PlannedVariant(
        name=hostile,
        state="renamed",
        renamed_from=hostile,
        changes=(hostile,),
        checks=(hostile,),
        affects=(hostile,),
        releases=(hostile,),
    )
    plain = PlannedVariant(
        name="x", state="renamed", renamed_from="x", changes=("x",), checks=("x",), affects=("x",), releases=("x",)
    )
    tame = PlannedStage(
        address=Address(variant="x", stage="x"),
        kind="sft",
        verdict="reuse",
        reasons=("stages.x: x -> 1", "x"),
        reuse="x",
        estimate=Estimate(size_bytes=1),
    )
    attacked = comment(Plan(stages=(stage,), notes=(hostile,), variants=(variant,)))
    honest = comment(Plan(stages=(tame,), notes=("x",), variants=(plain,)))
    assert len(attacked.splitlines()) == len(honest.splitlines())
    if hostile.strip():
        assert _outside_code(attacked) == _outside_code(honest)
