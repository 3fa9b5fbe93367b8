from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder.adapter_rules import adapter_clashes, origin_clashes
from builder.adapter_settings import ADAPTERS
from builder.manifest import Manifest
from builder.shapes import Reading
from builder.tables import read
from builder.train_stages import DpoStage, SftStage
from builder.weight_stages import FoldStage
from builder.weighting import ONE


def stage(table: type, adapter: dict[str, Any], **train: object) -> Any:  # noqa: ANN401 - one of the stages' tables
    """A stage's table, read as a manifest's is."""
    kind = {SftStage: "sft", DpoStage: "dpo"}[table]
    reading = Reading(file="model.yaml")
    value = {"kind": kind, "from": "base", "data": "d", "adapter": adapter, "train": train}
    found: Any = read(table, value, reading)  # type: ignore[arg-type]
    assert not reading.faults, [str(one) for one in reading.faults]
    return found


def clashes(adapter: dict[str, Any], table: type = SftStage, **train: object) -> list[tuple[str, str]]:
    return [(".".join(map(str, one.path)), one.problem) for one in adapter_clashes(stage(table, adapter, **train))]


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_defaults_of_every_type_go_together(name: str) -> None:
    adapter = {"type": name} | ({"tokens": ["a"]} if name == "trainable_tokens" else {})
    assert clashes(adapter) == []


@pytest.mark.parametrize(
    ("adapter", "path", "problem"),
    [
        (
            {"type": "loha", "base": "nf4"},
            "adapter.base",
            "PEFT has no layer of this type over weights in few bits",
        ),
        (
            {"init": "pissa", "base": "nf4"},
            "adapter.init",
            "pissa takes its start from the weights, which nf4 rounds",
        ),
        (
            {"init": "olora", "bias": "all"},
            "adapter.bias",
            "an adapter of olora is written as a plain one, without biases",
        ),
        ({"init": "orthogonal", "rank": 7}, "adapter.rank", "the orthogonal start needs even ranks"),
        ({"type": "adalora", "target_rank": 12}, "adapter.target_rank", "12 is no less than the 12 of the start"),
        ({"type": "lokr", "decompose_factor": 0}, "adapter.decompose_factor", "a block of no size"),
        ({"type": "gralora", "rank": 9}, "adapter.rank", "2 blocks do not share a rank of 9"),
        ({"type": "hra", "rank": 3}, "adapter.rank", "an odd number of mirrors"),
        ({"type": "road", "group_size": 7}, "adapter.group_size", "a group of odd size has no halves"),
        (
            {"type": "randlora", "sparse": True, "very_sparse": True},
            "adapter.very_sparse",
            "sparse and very sparse at once",
        ),
        ({"type": "vblora", "topk": 300}, "adapter.topk", "300 of 256 vectors"),
        ({"type": "supertuning", "alpha": 4}, "adapter.alpha", "a scale, and no rank"),
        ({"type": "trainable_tokens", "tokens": []}, "adapter.tokens", "it names no token"),
    ],
)
def test_settings_that_contradict_each_other(adapter: dict[str, Any], path: str, problem: str) -> None:
    assert clashes(adapter) == [(path, problem)]


def test_adalora_needs_steps_to_drop_ranks_in() -> None:
    adapter = {"type": "adalora", "tinit": 6, "tfinal": 4}
    assert clashes(adapter, steps=10) == [
        ("adapter.tinit", "of 10 steps 6 come before ranks are dropped, 4 after"),
    ]
    assert clashes(adapter, steps=12) == []


def test_adalora_has_no_earlier_step_to_keep() -> None:
    held_out: dict[str, Any] = {"eval_steps": 2, "steps": 100, "keep": "best"}
    (clash,) = adapter_clashes(stage(SftStage, {"type": "adalora", "tinit": 6, "tfinal": 4}, **held_out))
    assert (clash.path, clash.mend) == (("train", "keep"), "write `keep: last`")
    assert clashes({}, **held_out) == []


def test_a_prompt_stands_before_a_row_not_before_several() -> None:
    assert clashes({"type": "prompt_tuning"}, packing=True) == [
        ("train.packing", "prompt_tuning puts its vectors before a sequence, and a packed one holds several rows"),
    ]


def test_advice_names_what_goes_with_the_rest() -> None:
    (clash,) = adapter_clashes(stage(SftStage, {"type": "loha", "base": "nf4"}))
    assert clash.mend == "write `base:` stored; `varietal matrix` shows all"


def manifest(adapter: dict[str, Any]) -> list[tuple[str, str, str]]:
    reading = Reading(file="models/v/model.yaml")
    stages = {"s": {"kind": "sft", "from": "base", "data": "d", "adapter": adapter}}
    document = {"base": "b", "data": {"d": {"path": "d.jsonl", "format": "text"}}, "stages": stages, "release": "s"}
    read(Manifest, document, reading, outside={"variant": "v", "written": {}})  # type: ignore[arg-type]
    return [(one.key, one.problem, one.mend) for one in reading.faults]


@pytest.mark.parametrize(
    ("adapter", "path", "problem", "mend"),
    [
        ({"type": "lorra"}, "type", "unknown type 'lorra'", "did you mean 'lora'?"),
        (
            {"type": "xlora"},
            "type",
            "type 'xlora' cannot be trained by a stage",
            "it mixes adapters that are trained already",
        ),
        (
            {"type": "bone"},
            "type",
            "type 'bone' cannot be trained by a stage",
            "PEFT has it as `type: miss` with `init: bat`",
        ),
        (
            {"type": "vera", "alpha": 3},
            "alpha",
            "unknown key 'alpha'",
            "keys here: base, d_initial, dropout, rank, seed, targets, type",
        ),
        ({"rank": 2.5}, "rank", "expected an integer from 1 to 4096, got 2.5", "write an integer from 1 to 4096"),
    ],
)
def test_faults_of_the_table(adapter: dict[str, Any], path: str, problem: str, mend: str) -> None:
    assert manifest(adapter) == [(f"stages.s.adapter.{path}", problem, mend)]


def test_a_rank_by_component_is_read() -> None:
    read_stage = stage(SftStage, {"rank": [{"value": 8}, {"on": "mlp", "value": [16, 32]}]})
    assert read_stage.adapter.rank.to_json() == [{"value": 8.0}, {"on": ["mlp"], "value": [16.0, 32.0]}]


def test_what_other_stages_train_cannot_always_go_on_or_be_folded() -> None:
    stages = {
        "prompt": stage(SftStage, {"type": "prompt_tuning"}),
        "pruned": stage(SftStage, {"type": "adalora"}),
        "plain": stage(SftStage, {}),
        "fold": FoldStage(from_="base", adapters={"prompt": ONE, "pruned": ONE, "plain": ONE}),
    }
    more = {name: replace(stages["plain"], from_=name, adapter=None) for name in ("prompt", "pruned", "plain")}
    more["base"] = replace(more["plain"], from_="base")
    found = {name: [str(one.problem) for one in origin_clashes(one, stages)] for name, one in more.items()}
    assert found == {
        "prompt": [
            "'prompt' is of type prompt_tuning, which cannot go on training: PEFT opens learnt prompts for reading only"
        ],
        "pruned": [
            (
                "'pruned' is of type adalora, which cannot go on training: "
                "the ranks that it dropped are gone, and it would drop more"
            )
        ],
        "plain": [],
        "base": [],
    }
    (clash,) = origin_clashes(stages["fold"], stages)
    assert clash.path == ("adapters", "prompt")
    assert clash.problem == (
        "'prompt' is of type prompt_tuning, which cannot be folded: it is a learnt prompt, so no weight holds it"
    )
