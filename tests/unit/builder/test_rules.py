"""What settings must keep together is said before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.load import load
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

GROWN = "{kind: pretrain, data: texts, network: {layers: 1, hidden_size: 64, heads: 4}}"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (
            f"grown: {GROWN.replace('hidden_size: 64', 'hidden_size: 60')}",
            "stages.grown.network.heads: a head is 15 units wide\n  mend: make every head an even number of units wide",
        ),
        (
            f"grown: {GROWN}, x: {{kind: dpo, from: grown, data: likes, train: {{loss: ipo, label_smoothing: 0.1}}}}",
            "stages.x.train.label_smoothing: no label smoothing is known to ipo\n  mend: write 0, or `loss: sigmoid`",
        ),
    ],
)
def test_settings_that_no_stage_could_run(tmp_path: Path, stages: str, said: str) -> None:
    (tmp_path / "params.yaml").write_text("bases: {}\nrecipes: {pretrain: 1, sft: 1, dpo: 1, fold: 1, evaluate: 1}\n")
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "models/grain").mkdir(parents=True)
    (tmp_path / "models/grain/model.yaml").write_text(
        "data: {texts: {path: rows.jsonl, format: text}, likes: {path: rows.jsonl, format: preference}}\n"
        f"stages: {{{stages}}}\nrelease: grown\n"
    )
    with pytest.raises(InvalidError) as caught:
        load(tmp_path)
    assert [str(fault).partition(" ")[2] for fault in caught.value.faults] == [said]


MANIFEST = """\
base: {{variant: other, stage: grown}}
models: {{twin: {{variant: other, stage: grown}}}}
data: {{texts: {{path: rows.jsonl, format: text}}}}
stages: {{x: {stage}}}
release: x
"""


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("{kind: cast, from: twin, dtype: float32}", []),
        ("{kind: cast, from: twn, dtype: float32}", ["from: unknown stage or adapter 'twn' / did you mean 'twin'?"]),
        (
            "{kind: blend, method: ties, models: {twin: 1.0}}",
            ["against: ties needs a base / name the model that the others were made from"],
        ),
        (
            "{kind: blend, method: linear, models: {twin: {weight: 1, density: 0.5}, base: 1}}",
            ["models.twin.density: linear does not read `density` / take it out; what is read is `weight`"],
        ),
        (
            "{kind: blend, method: passthrough, models: {twin: 1}, layers: [{base: '0'}]}",
            ["layers[0].base: unknown model 'base' / models here: twin"],
        ),
        (
            "{kind: graft, from: base}",
            [
                (
                    ": graft asks for nothing / say `vocabulary`, `head`, `untie`, `layers`, `context`, `rope` "
                    "or `template`, or leave the stage out"
                ),
            ],
        ),
        (
            "{kind: graft, from: base, vocabulary: {tokens: [a, a]}, head: {type: reward, labels: [good]}}",
            [
                "head.labels: a reward head has no labels / take them out",
                "vocabulary: token 'a' comes twice / name each new token once",
            ],
        ),
        (
            "{kind: graft, from: base, vocabulary: {}, head: {type: classification, labels: [good]}}",
            [
                "head.labels: a classification needs two labels or more, each once / name them",
                "vocabulary: it adds no token / name `tokens` or `special`, or a `multiple`",
            ],
        ),
        (
            "{kind: evaluate, from: base, metrics: {loss: texts}}",
            [
                (
                    "kind: params.yaml pins no recipe of kind 'evaluate' / "
                    "write `evaluate: 1` under `recipes:` in params.yaml"
                )
            ],
        ),
    ],
)
def test_stages_of_weights_are_judged_before_anything_is_built(tmp_path: Path, stage: str, said: list[str]) -> None:
    (tmp_path / "params.yaml").write_text("bases: {}\nrecipes: {pretrain: 1, blend: 1, graft: 1, cast: 1, fuse: 1}\n")
    (tmp_path / "rows.jsonl").write_text("")
    for name, text in {
        "other": f"data: {{texts: {{path: rows.jsonl, format: text}}}}\nstages: {{grown: {GROWN}}}\nrelease: grown\n",
        "mixed": MANIFEST.format(stage=stage),
    }.items():
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.yaml").write_text(text)
    found: list[str] = []
    try:
        load(tmp_path)
    except InvalidError as error:
        found = [
            f"{one.key.removeprefix('stages.x').removeprefix('.')}: {one.problem} / {one.mend}" for one in error.faults
        ]
    assert [one for one in found if not one.startswith("release: ")] == said


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ("{stage: small, metric: relative_rms, max: 0.01}", []),
        ("{stage: small, metric: largest_error_attention-query, max: 0.01}", []),
        ("{stage: both, metric: error, max: 0.01}", []),
        ("{stage: moved, metric: error-mlp-down, max: 0.01}", []),
        ("{stage: moved, metric: rank, max: 8}", []),
        (
            "{stage: small, metric: relative_rsm, max: 0.01}",
            ["metric: unknown label 'relative_rsm' of small / did you mean 'relative_rms'?"],
        ),
        (
            "{stage: moved, metric: error-mlp, max: 1}",  # the record has its parts, and not the whole
            ["metric: unknown label 'error-mlp' of moved / did you mean 'error-mlp-up'?"],
        ),
        (
            "{stage: small, metric: relative_rms, max_increase: 0.01}",
            [
                (
                    "max_increase: 'relative_rms' is what 'small' itself cost, and is compared with nothing / "
                    "write `min` or `max`"
                )
            ],
        ),
        (
            "{stage: grown, metric: error, max: 1}",
            [
                (
                    "stage: 'grown' is a graft stage, and measures nothing / "
                    "name a stage of kind evaluate, fuse, extract or cast"
                )
            ],
        ),
    ],
)
def test_a_check_bounds_what_a_stage_of_weights_cost(tmp_path: Path, bound: str, said: list[str]) -> None:
    (tmp_path / "params.yaml").write_text(
        "bases: {tiny: {path: x, sha256: " + "a" * 64 + "}}\n"
        "recipes: {import: 1, fuse: 1, extract: 1, graft: 1, cast: 1}\n"
    )
    (tmp_path / "models/grain").mkdir(parents=True)
    (tmp_path / "models/grain/model.yaml").write_text(
        "base: tiny\n"
        "adapters: {tone: {path: y, sha256: " + "b" * 64 + ", base: tiny}}\n"
        "stages:\n"
        "  small: {kind: cast, from: base, dtype: bfloat16}\n"
        "  moved: {kind: extract, from: small, against: base, rank: 8}\n"
        "  both: {kind: fuse, adapters: {tone: 1.0, moved: 1.0}, method: linear}\n"
        "  grown: {kind: graft, from: base, untie: true}\n"
        f"release: small\nchecks: [{bound}]\n"
    )
    found: list[str] = []
    try:
        load(tmp_path)
    except InvalidError as error:
        found = [f"{one.key.removeprefix('checks[0].')}: {one.problem} / {one.mend}" for one in error.faults]
    assert found == said
