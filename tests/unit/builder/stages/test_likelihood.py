from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from builder.environment import Device
from builder.stages.likelihood import score, split_rows
from builder.stages.models import open_model
from builder.stages.sequences import Counted

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Protocol

    from transformers import PreTrainedModel

    class MakeModel(Protocol):
        def __call__(self, family: str = "llama", *, tied: bool = False, seed: int = 0) -> Path: ...


CPU = Device(kind="cpu", name="cpu", threads=1)
SEQUENCES = [
    Counted(ids=(7, 20, 31), places=(1, 2)),
    Counted(ids=tuple(range(5, 60)), places=(3, 4, 5, 20, 54)),
    Counted(ids=(9, 9, 9, 9, 9, 9), places=(5,)),
    Counted(ids=(250, 17, 17, 40), places=(1, 2, 3)),
]


def log_probabilities(model: PreTrainedModel, ids: tuple[int, ...]) -> list[float]:
    """The oracle: one unpadded prefix at a time, probabilities in plain Python."""
    with torch.no_grad():
        logits = [float(value) for value in model(torch.tensor([ids])).logits[0, -1]]
    top = max(logits)
    total = top + math.log(math.fsum(math.exp(value - top) for value in logits))
    return [value - total for value in logits]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def models(request: pytest.FixtureRequest, make_model: MakeModel) -> list[PreTrainedModel]:
    family = request.param
    return [open_model(make_model(family, tied=family == "gpt2", seed=seed), CPU) for seed in (0, 1)]


def test_scores_equal_those_of_one_token_at_a_time(models: list[PreTrainedModel]) -> None:
    for sequence, found in zip(SEQUENCES, score(models, SEQUENCES, batch=3, compare=True), strict=True):
        first = [log_probabilities(models[0], sequence.ids[:place]) for place in sequence.places]
        second = [log_probabilities(models[1], sequence.ids[:place]) for place in sequence.places]
        targets = [sequence.ids[place] for place in sequence.places]
        for side, rows in enumerate((first, second)):
            nats = -math.fsum(row[target] for row, target in zip(rows, targets, strict=True))
            assert found.nats[side] == pytest.approx(nats, abs=1e-5)
        divergence = math.fsum(
            math.exp(p) * (p - q)
            for one, other in zip(first, second, strict=True)
            for p, q in zip(one, other, strict=True)
        )
        assert found.divergence == pytest.approx(divergence, abs=1e-5)
        likeliest = [(one.index(max(one)), other.index(max(other))) for one, other in zip(first, second, strict=True)]
        assert found.agreed == sum(one == other for one, other in likeliest)


def test_the_batch_says_nothing(models: list[PreTrainedModel]) -> None:
    alone = score(models, SEQUENCES, batch=1, compare=True)
    for batch in (2, 3, 100):
        for one, other in zip(alone, score(models, SEQUENCES, batch=batch, compare=True), strict=True):
            assert other.nats == pytest.approx(one.nats, abs=1e-5)
            assert other.divergence == pytest.approx(one.divergence, abs=1e-5)
            assert other.agreed == one.agreed


def test_the_order_of_sequences_says_nothing(models: list[PreTrainedModel]) -> None:
    forward = score(models[:1], SEQUENCES, batch=2)
    backward = score(models[:1], SEQUENCES[::-1], batch=2)
    assert [one.nats for one in backward[::-1]] == [pytest.approx(one.nats, abs=1e-5) for one in forward]


def test_twice_is_the_same_to_the_bit(models: list[PreTrainedModel]) -> None:
    assert score(models, SEQUENCES, batch=3, compare=True) == score(models, SEQUENCES, batch=3, compare=True)


def test_a_model_is_no_distance_from_itself(models: list[PreTrainedModel]) -> None:
    found = score([models[0], models[0]], SEQUENCES, batch=2, compare=True)
    assert [one.divergence for one in found] == [0.0] * 4
    assert [one.agreed for one in found] == [len(one.places) for one in SEQUENCES]


def test_without_a_comparison_nothing_is_compared(models: list[PreTrainedModel]) -> None:
    assert [(one.divergence, one.agreed) for one in score(models, SEQUENCES, batch=2)] == [(0.0, 0)] * 4


def test_rows_are_grouped_by_length_within_the_batch() -> None:
    assert list(split_rows([3, 9, 3, 1], batch=2, vocabulary=100)) == [[1, 0], [2, 3]]
    assert list(split_rows([], batch=2, vocabulary=100)) == []


def test_large_logits_make_smaller_groups() -> None:
    # 1,000 tokens of 32,768 logits are 125 MiB of the 256 MiB that a batch may take.
    assert list(split_rows([1000, 1000, 1000, 10, 10], batch=8, vocabulary=32_768)) == [[0, 1], [2, 3], [4]]
    assert list(split_rows([9000, 9000], batch=8, vocabulary=32_768)) == [[0], [1]]
