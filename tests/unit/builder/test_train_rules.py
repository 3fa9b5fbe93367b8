"""Settings of a training that cannot stand together are refused when the manifest is read, each with its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.kinds import KINDS
from builder.load import load
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

_DATA = ", ".join(
    f"{name}: {{path: rows.jsonl, format: {name}}}" for name in ("text", "messages", "preference", "unpaired")
)


def said(folder: Path, stage: str) -> list[str]:
    """Faults of a manifest with one stage beside the one that makes its model."""
    recipes = ", ".join(f"{name}: {kind.recipe}" for name, kind in KINDS.items())
    (folder / "params.yaml").write_text(f"bases: {{}}\nrecipes: {{{recipes}}}\n")
    (folder / "rows.jsonl").write_text("")
    (folder / "models/grain").mkdir(parents=True)
    (folder / "models/grain/model.yaml").write_text(
        f"data: {{{_DATA}}}\n"
        "stages:\n"
        "  grown: {kind: pretrain, data: text, network: {layers: 1, hidden_size: 64, heads: 4}}\n"
        "  headed: {kind: graft, from: grown, head: {type: reward}}\n"
        f"  x: {{{stage if 'from:' in stage else f'from: grown, {stage}'}}}\n"
        "release: grown\n"
    )
    try:
        load(folder)
    except InvalidError as error:
        return [f"{fault.key.removeprefix('stages.x.')}: {fault.problem} / {fault.mend}" for fault in error.faults]
    return []


@pytest.mark.parametrize(
    "train",
    [
        "loss: hinge",
        "loss: {sigmoid: 0.8, sft: 0.2}",
        "loss: sigmoid, label_smoothing: 0.1",
        "loss: {robust: 1, sft: 1}, label_smoothing: 0.1",
        "loss: exo_pair, label_smoothing: 0.001",
        "loss: discopop, discopop_tau: 0.1",
        "f_divergence_type: alpha_divergence, f_alpha_divergence_coef: 0.2, ld_alpha: 0.5, use_weighting: true",
    ],
)
def test_losses_of_dpo_that_go_together(train: str, tmp_path: Path) -> None:
    assert said(tmp_path, f"kind: dpo, data: preference, train: {{{train}}}") == []


@pytest.mark.parametrize(
    ("train", "faults"),
    [
        (
            "loss: ipo, label_smoothing: 0.1",
            ["train.label_smoothing: no label smoothing is known to ipo / write 0, or `loss: sigmoid`"],
        ),
        (
            "loss: exo_pair",
            [
                (
                    "train.loss: exo_pair is for pairs labelled the wrong way round, and label_smoothing is 0 / "
                    "write `label_smoothing: 0.1` for robust, 0.001 for exo_pair, or `loss: sigmoid`"
                )
            ],
        ),
        (
            "loss: {nca_pair: 1, sigmoid: 1}, f_divergence_type: forward_kl",
            [
                (
                    "train.f_divergence_type: nca_pair cannot be had with forward_kl / "
                    "write `reverse_kl`; others go with discopop, exo_pair, hinge, ipo, robust, sft, sigmoid, "
                    "sigmoid_norm"
                )
            ],
        ),
        (
            "loss: aot, use_weighting: true",
            [
                (
                    "train.use_weighting: aot puts the rows of a batch into another order / "
                    "take `use_weighting` out, or take another loss"
                )
            ],
        ),
        (
            "loss: aot_unpaired, batch: 1",
            ["train.batch: aot_unpaired compares the rows of a batch, and there is one / write a larger batch"],
        ),
        (
            "discopop_tau: 0.1",
            [
                (
                    "train.discopop_tau: it belongs to the loss discopop, which is not among the losses / "
                    "take it out, or write `loss: discopop`"
                )
            ],
        ),
        (
            "f_alpha_divergence_coef: 0.1",
            [
                (
                    "train.f_alpha_divergence_coef: it belongs to alpha_divergence, not to reverse_kl / "
                    "take it out, or write `f_divergence_type: alpha_divergence`"
                )
            ],
        ),
        (
            "loss: {sigmoid: 0}",
            ["train.loss.sigmoid: expected a number above 0, up to 1000, got 0 / write a number above 0, up to 1000"],
        ),
        ("loss: {}", ["train.loss: expected at least one entry, got none / add one, or leave the table out"]),
    ],
)
def test_losses_of_dpo_that_do_not(train: str, faults: list[str], tmp_path: Path) -> None:
    assert said(tmp_path, f"kind: dpo, data: preference, train: {{{train}}}") == faults


def test_a_misspelt_loss(tmp_path: Path) -> None:
    (fault,) = said(tmp_path, "kind: dpo, data: preference, train: {loss: sigmoyd}")
    assert fault.startswith("train.loss: expected sigmoid or hinge or ipo or ")
    assert fault.endswith("got text 'sigmoyd' / did you mean 'sigmoid'?")


@pytest.mark.parametrize(
    "stage",
    [
        "kind: kto, data: unpaired, train: {desirable_weight: 2}",
        "kind: kto, data: preference, train: {loss: apo_zero_unpaired, batch: 1}",
        "kind: orpo, data: preference, train: {beta: 0.2}",
        "kind: cpo, data: preference, train: {label_smoothing: 0.1, cpo_alpha: 0}",
        "kind: cpo, data: preference, train: {loss: simpo, simpo_gamma: 1.5, alpha: 0.25}",
        "kind: reward, data: preference, train: {center_rewards_coefficient: 0.01}",
    ],
)
def test_kinds_that_learn_from_preferences(stage: str, tmp_path: Path) -> None:
    assert said(tmp_path, stage) == []


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        (
            "kind: kto, data: unpaired, train: {batch: 1}",
            (
                "train.batch: the loss kto compares rows with their neighbours, and a batch has one / "
                "write a larger batch, or `loss: apo_zero_unpaired`"
            ),
        ),
        (
            "kind: kto, data: unpaired, train: {desirable_weight: 0, undesirable_weight: 0}",
            (
                "train.undesirable_weight: neither good answers nor others weigh anything / "
                "write a weight above 0 for one of them"
            ),
        ),
        (
            "kind: cpo, data: preference, train: {loss: ipo, label_smoothing: 0.1}",
            "train.label_smoothing: no label smoothing is known to ipo / write 0, or `loss: sigmoid`",
        ),
        (
            "kind: cpo, data: preference, train: {simpo_gamma: 1}",
            "train.simpo_gamma: it belongs to the loss simpo, not to sigmoid / take it out, or write `loss: simpo`",
        ),
        (
            "kind: cpo, data: preference, train: {alpha: 0.5}",
            (
                "train.alpha: AlphaPO shapes the probability of a mean token; sigmoid takes that of the whole answer / "
                "write 0, or `loss: simpo`"
            ),
        ),
        (
            "kind: orpo, data: preference, adapter: {dropout: 0.1}",
            "adapter.dropout: orpo compares answers by the whole model, without dropout / take it out",
        ),
        (
            "kind: kto, data: unpaired, adapter: {type: loha, rank_dropout: 0.1}",
            "adapter.rank_dropout: kto compares answers by the whole model, without dropout / take it out",
        ),
        (
            "kind: dpo, data: preference, adapter: {type: lokr, module_dropout: 0.1}",
            "adapter.module_dropout: dpo compares answers by the whole model, without dropout / take it out",
        ),
        (
            "kind: orpo, data: unpaired",
            "data: 'unpaired' holds unpaired, orpo needs preference / name a data set of that format",
        ),
    ],
)
def test_kinds_that_learn_from_preferences_refuse(stage: str, fault: str, tmp_path: Path) -> None:
    assert said(tmp_path, stage) == [fault]


# Models that score, and models that write


@pytest.mark.parametrize(
    "stage",
    [
        "kind: reward, from: headed, data: preference, adapter: {rank: 4}",
        "kind: reward, from: grown, data: preference",
        "kind: evaluate, from: headed, metrics: {pair_accuracy: preference, pair_margin: preference}",
        "kind: evaluate, from: grown, metrics: {loss: text, preference_accuracy: preference}",
    ],
)
def test_what_scores_and_what_writes(stage: str, tmp_path: Path) -> None:
    assert said(tmp_path, stage) == []


@pytest.mark.parametrize(
    ("stage", "faults"),
    [
        (
            "kind: dpo, from: headed, data: preference",
            ["from: 'headed' scores texts, and dpo trains models that write them / start from what it was made from"],
        ),
        (
            "kind: reward, from: grown, data: preference, adapter: {rank: 4}",
            [
                (
                    "adapter: 'grown' has no head that scores, and an adapter needs one under it / "
                    "put a stage of kind graft with `head: {type: reward}` between, or take `adapter` out"
                )
            ],
        ),
        (
            "kind: evaluate, from: grown, metrics: {pair_accuracy: preference}",
            [
                (
                    "metrics.pair_accuracy: pair_accuracy is measured on models that score, and 'grown' writes / "
                    "name another metric"
                )
            ],
        ),
        (
            "kind: evaluate, from: headed, metrics: {pair_accuracy: preference, loss: text}",
            [
                ("metrics.loss: loss is measured on models that write, and 'headed' scores / name another metric"),
                (
                    "metrics.loss: loss and pair_accuracy are not of one model: one is of models that score, one of "
                    "models that write / measure each in a stage of its own"
                ),
            ],
        ),
    ],
)
def test_what_scores_is_not_what_writes(stage: str, faults: list[str], tmp_path: Path) -> None:
    assert sorted(said(tmp_path, stage)) == sorted(faults)


# A new model, or one that goes on


@pytest.mark.parametrize(
    "stage",
    [
        "kind: pretrain, from: grown, data: text",
        "kind: pretrain, from: grown, data: text, adapter: {rank: 4}",
        "kind: pretrain, from: grown, data: text, targets: mlp",
    ],
)
def test_pretrain_that_goes_on(stage: str, tmp_path: Path) -> None:
    assert said(tmp_path, stage) == []


def test_a_model_is_new_or_goes_on(tmp_path: Path) -> None:
    mend = "keep `from`, to go on training what it gives; or `network` and `tokenizer`, to make a new model"
    stage = "kind: pretrain, from: grown, data: text, network: {layers: 1, hidden_size: 64, heads: 4}"
    assert said(tmp_path, stage) == [f"network: 'network' together with 'from' / {mend}"]


def test_a_new_model_needs_a_network(tmp_path: Path) -> None:
    text = "data: {text: {path: rows.jsonl, format: text}}\nstages: {x: {kind: pretrain, data: text}}\nrelease: x\n"
    (tmp_path / "params.yaml").write_text("bases: {}\nrecipes: {pretrain: 1}\n")
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "models/grain").mkdir(parents=True)
    (tmp_path / "models/grain/model.yaml").write_text(text)
    with pytest.raises(InvalidError) as caught:
        load(tmp_path)
    assert [str(fault) for fault in caught.value.faults] == [
        (
            "models/grain/model.yaml:2: stages.x: neither 'from' nor 'network'\n"
            "  mend: describe a new `network`, or name what to go on from"
        )
    ]
