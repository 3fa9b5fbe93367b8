"""The gate's words, and text that others wrote in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.edges import Address, DataFile, Edge
from builder.graph import Node
from builder.release import Verdict
from builder.request.assembled import Assembled
from builder.request.gated import Gated
from builder.request.markdown import code, plain
from builder.request.touched import touched_variants
from registry.gate import Judgement

EVIL = "x`|\n@team <img src=x onerror=y> [a](http://b) \x1b[2J #1 \u202e"


def judgement(*, passed: bool = True, metric: str = "loss", value: float | None = 0.5) -> Judgement:
    return Judgement(
        stage="score", metric=metric, bound="at most 1", value=value, against=None, passed=passed, reason=f"{metric} is"
    )


def verdict(*judgements: Judgement, stale: tuple[str, ...] = ()) -> Verdict:
    return Verdict(variant="support", judgements=judgements, stale=stale)


def assembled(**facts: tuple[str, ...]) -> Assembled:
    empty: tuple[str, ...] = ()
    return Assembled(
        root=Path("/nowhere"),
        request="1" * 40,
        main="2" * 40,
        base="2" * 40,
        builds=(),
        commit="3" * 40,
        **{"taken": empty, "left": empty, "generated": empty, **facts},
    )


def test_one_variant_keeps_its_shape() -> None:
    value = Gated(verdicts=(verdict(judgement()),)).to_json()
    assert value["variant"] == "support"
    assert value["passed"] is True
    assert value["stale"] == []
    assert value["variants"] == [verdict(judgement()).to_json()]
    assert value["request"] is None
    assert Gated(verdicts=(verdict(judgement()),)).lines() == ["pass  loss is"]
    assert Gated(verdicts=(verdict(),)).lines() == ["no checks, on purpose; the lock is fresh"]


def test_every_failure_is_a_line() -> None:
    gated = Gated(
        verdicts=(verdict(judgement(passed=False), stale=("support:tone: was never built",)), verdict()),
        assembled=assembled(left=("builder",)),
        unwritten=("models/support/dvc.lock",),
        bounds=("support",),
    )
    assert not gated.passed
    assert gated.lines() == [
        "FAIL  support: loss is",
        "FAIL  support: support:tone: was never built",
        "pass  support: no checks, on purpose; the lock is fresh",
        "FAIL  models/support/dvc.lock is not what a runner wrote",
        "look  support: the request changes its checks",
        "look  builder was not taken from the request: review it as code",
    ]
    assert len(gated.failures()) == 3
    assert "request" not in gated.to_json()["variants"]  # type: ignore[operator]


def test_a_forged_lock_alone_fails() -> None:
    assert not Gated(verdicts=(verdict(),), assembled=assembled(), unwritten=("dvc.yaml",)).passed
    assert Gated(verdicts=(verdict(),), assembled=assembled()).passed


def test_markdown_of_a_request() -> None:
    text = Gated(verdicts=(verdict(judgement(passed=False)),), assembled=assembled(left=("builder",))).markdown()
    assert text == (
        "### Gate: **failed**\n\n"
        "Request `111111111111` with the tool and configuration of main, `222222222222`.\n\n"
        "#### `support`: **failed**\n\n"
        "| | check | measured | before | bound |\n|---|---|---|---|---|\n"
        "| **FAIL** | `loss` of `score` | 0.5 |  | at most 1 |\n\n"
        "Not taken from the request. **Review these as code**:\n- `builder`\n"
    )


def test_hostile_text_does_nothing_in_markdown() -> None:
    text = Gated(
        verdicts=(verdict(judgement(metric=EVIL), stale=(EVIL,)),),
        assembled=assembled(left=(EVIL,)),
        unwritten=(EVIL,),
    ).markdown()
    assert all(line.isprintable() for line in text.splitlines())
    for line in text.splitlines():
        outside = line
        while "``" in outside:
            before, _, rest = outside.partition("``")
            outside = before + rest.partition("``")[2]
        assert "@team" not in outside
        assert "<img" not in outside
        assert "http" not in outside
    row = next(line for line in text.splitlines() if line.startswith("| pass"))
    assert row.replace("\\|", "").count("|") == 6


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("a", "`a`"),
        ("", "` `"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("a|b", "`a\\|b`"),
        ("a\nb", "`a\\nb`"),
        (" a", "`  a `"),
    ],
)
def test_a_code_span(text: str, span: str) -> None:
    assert code(text) == span


def test_plain_text_stays_plain() -> None:
    assert plain("at most 0.5 above the one before") == "at most 0.5 above the one before"
    assert plain("see www.evil.example") == "`see www.evil.example`"
    assert plain("@team") == "`@team`"


def node(ref: str, *sources: Address | DataFile, params: tuple[tuple[str, str], ...] = ()) -> tuple[Address, Node]:
    variant, _, stage = ref.partition(":")
    address = Address(variant=variant, stage=stage)
    edges = tuple(Edge(role="from", name="x", source=one) for one in sources)
    return address, Node(address=address, kind="fold", settings=None, edges=edges, params=params)  # type: ignore[arg-type]


def test_touched_variants() -> None:
    tiny, own = Address(variant="bases", stage="tiny"), Address(variant="a", stage="final")
    graph = dict(
        [
            node("bases:tiny", params=(("params.yaml", "bases.tiny"),)),
            node("b:later", own),
            node("a:final", tiny, params=(("params.yaml", "defaults.fold"),)),
            node("c:final", DataFile(path="data/x.jsonl", format="text")),
            node("d:final"),
        ]
    )
    assert touched_variants(graph, [], []) == ()
    assert touched_variants(graph, ["models/d/model.yaml"], []) == ("d",)
    assert touched_variants(graph, ["models/a/dvc.lock"], []) == ("a", "b")
    assert touched_variants(graph, ["data/x.jsonl.dvc"], []) == ("c",)
    assert touched_variants(graph, ["models/zzz/model.yaml", "docs/x"], []) == ()
    assert touched_variants(graph, [], ["bases.tiny"]) == ("a", "b")
    assert touched_variants(graph, [], ["defaults.fold"]) == ("a", "b")
    assert touched_variants(graph, ["bases/dvc.lock"], []) == ()
    assert touched_variants(graph, ["bases/records/tiny.json"], []) == ("a", "b")
