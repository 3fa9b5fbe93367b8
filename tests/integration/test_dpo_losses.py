"""Every loss of DPO is the one that it is named after: at the first step policy and reference are one."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from builder.engines.dpo import loss_of
from builder.stages.dpo import dpo
from builder.train_settings import DpoTraining
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.stage import Outcome

LN_2 = math.log(2)
BETA = 0.25


@pytest.fixture(scope="module", autouse=True)
def _own_variables() -> Iterator[None]:
    """A stage sets variables of its process; here that process goes on to other tests."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    training.write_rows(folder)
    return folder


def first(folder: Path, base: Path, data: Path, loss: Mapping[str, float], **train: object) -> Outcome:
    """One step over four rows, at once."""
    stage = training.dpo_stage(training.lora("attention.query"), steps=1, beta=BETA, loss=loss, **train)
    inputs = [training.model_input("from", base), training.data_input(data / "preference.jsonl")]
    return dpo(training.context(stage, inputs, folder))


def value(outcome: Outcome) -> float:
    return outcome.metrics["train_loss"]["value"]


EXO = 0.5 * (math.log(0.5) - math.log(0.9)) + 0.5 * (math.log(0.5) - math.log(0.1))
AT_FIRST = [
    ("sigmoid", LN_2, {}),
    ("hinge", 1.0, {}),
    ("ipo", (1 / (2 * BETA)) ** 2, {}),
    ("exo_pair", EXO, {"label_smoothing": 0.1}),
    ("nca_pair", 2 * LN_2, {}),
    ("robust", LN_2, {"label_smoothing": 0.1}),
    ("bco_pair", 2 * LN_2, {}),
    ("sppo_hard", 2 * (0.5 / BETA) ** 2, {}),
    ("aot", LN_2, {}),
    ("aot_unpaired", LN_2, {}),
    ("apo_zero", 1.0, {}),
    ("apo_down", 1.0, {}),
    ("discopop", 0.5 * LN_2 + 0.5, {"discopop_tau": 0.2}),
    ("sigmoid_norm", LN_2, {}),
]


QUICK = {"sppo_hard", "exo_pair", "discopop"}


@pytest.mark.parametrize(
    ("loss", "expected", "train"),
    [pytest.param(*one, id=one[0], marks=() if one[0] in QUICK else pytest.mark.slow) for one in AT_FIRST],
)
def test_a_loss_at_the_first_step(
    loss: str, expected: float, train: dict[str, object], *, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    outcome = first(tmp_path, tiny_llama, data, {loss: 1.0}, **train)
    assert value(outcome) == pytest.approx(expected, abs=2e-5)


def test_losses_are_weighed_and_summed(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    alone = value(first(tmp_path / "alone", tiny_llama, data, {"sft": 1.0}))
    assert alone > 3
    both = first(tmp_path / "both", tiny_llama, data, {"sigmoid": 0.8, "sft": 0.2, "hinge": 3.0})
    assert value(both) == pytest.approx(0.8 * LN_2 + 0.2 * alone + 3.0, abs=2e-5)


def test_the_order_in_which_losses_are_written_changes_nothing() -> None:
    one, other = ({"sft": 0.2, "hinge": 1.0}, {"hinge": 1.0, "sft": 0.2})
    assert loss_of(DpoTraining(loss=one)) == loss_of(DpoTraining(loss=other))  # type: ignore[arg-type] # names
    assert loss_of(DpoTraining(loss=one))["loss_type"] == ["hinge", "sft"]  # type: ignore[arg-type] # names


def test_label_smoothing_is_conservative_dpo() -> None:
    smoothing, right, wrong = 0.2, 0.3, 1.7
    settings = loss_of(DpoTraining(label_smoothing=smoothing, loss={"sigmoid": 3.0}))
    robust = ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    weights = dict(zip(settings["loss_type"], settings["loss_weights"], strict=True))
    summed = weights["sigmoid"] * right + weights["robust"] * robust
    assert summed == pytest.approx(3 * ((1 - smoothing) * right + smoothing * wrong))


def test_settings_of_the_losses_reach_the_trainer(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """Policy and reference are one, so all but the weighting and the divergence leave the first step as it is."""
    train = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3, "ld_alpha": 0.5}
    outcome = first(tmp_path / "divergence", tiny_llama, data, {"sigmoid": 1.0}, **train)
    assert value(outcome) == pytest.approx(LN_2, abs=2e-5)
    weighted = first(tmp_path / "weighted", tiny_llama, data, {"sigmoid": 1.0}, use_weighting=True)
    assert abs(value(weighted) - LN_2) > 1e-3
    settings = loss_of(DpoTraining(ld_alpha=0.5, f_divergence_type="js_divergence", use_weighting=True))
    assert (settings["ld_alpha"], settings["f_divergence_type"], settings["use_weighting"]) == (
        0.5,
        "js_divergence",
        True,
    )


@pytest.mark.slow
def test_rows_that_are_sorted_are_told(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    outcome = first(tmp_path, tiny_llama, data, {"aot": 1.0, "sft": 1.0})
    assert "aot compared 4 rows at a time" in outcome.notes
