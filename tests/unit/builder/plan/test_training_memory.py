"""The memory of trainings, held against what was counted or measured of real ones; and what is advised by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.adapter_settings import LoraSettings
from builder.plan.memory import Network, adapter_parameters
from builder.plan.training_load import Told, load_of, told_by, what_fits
from builder.plan.training_memory import Load, training_memory
from builder.train_settings import DpoTraining, SftTraining
from builder.train_stages import DpoStage, OrpoStage, SftStage

_GIB = 1 << 30
_ONE_B = Network(
    parameters=1_100_048_384, layers=22, hidden=2048, inner=5632, keys=256, vocabulary=32000, stored_bytes=2
)
_EIGHT_B = Network(
    parameters=8_030_261_248, layers=32, hidden=4096, inner=14336, keys=1024, vocabulary=128256, stored_bytes=2
)
_LORA = adapter_parameters(_ONE_B, LoraSettings())


def _peak_gib(load: Load, network: Network = _ONE_B) -> float:
    return training_memory(network, load).peak_bytes / _GIB


def _lora(*, sequences: int = 1) -> Load:
    return Load(trained=_LORA, is_adapter=True, is_mixed=True, rows=8, sequences=sequences, length=1024)


@pytest.mark.parametrize(("sequences", "is_cast", "measured"), [(1, False, 17.4), (1, True, 20.3), (2, True, 38.3)])
def test_lora_as_it_was_measured(sequences: int, is_cast: bool, measured: float) -> None:  # noqa: FBT001
    """One run each on an H200. Raw TRL casts what goes into the adapter to float32, and keeps 8 bytes more of it."""
    load = _lora(sequences=sequences)
    cast = 8 * _ONE_B.hidden * load.tokens * _ONE_B.layers / _GIB if is_cast else 0.0
    assert _peak_gib(load) + cast == pytest.approx(measured, rel=0.02)


def test_a_full_training_holds_twelve_bytes_a_weight_and_what_is_larger_besides() -> None:
    """A weight and two moments in float32; then its gradient, or a 16-bit copy with the activations."""
    short = Load(trained=_EIGHT_B.parameters, is_adapter=False, is_mixed=True, length=8)
    assert _peak_gib(short, _EIGHT_B) == pytest.approx(16 * _EIGHT_B.parameters / _GIB, rel=0.01)
    long = replace(short, rows=16, length=4096)
    memory = training_memory(_EIGHT_B, long)
    assert memory.gradients == 0.0
    assert memory.casts == pytest.approx(2 * 6_979_321_856, rel=0.01)
    assert memory.activations > 4 * _EIGHT_B.parameters


def test_gradients_of_earlier_micro_batches_are_there_already() -> None:
    one = Load(trained=_ONE_B.parameters, is_adapter=False, is_mixed=False, rows=4, length=1024)
    more = replace(one, accumulation=2)
    assert _peak_gib(more) - _peak_gib(one) == pytest.approx(4 * _ONE_B.parameters / _GIB)


@pytest.mark.parametrize(
    "change",
    [
        {"is_mixed": False},
        {"dropout": True},
        {"head": "whole"},
        {"rows": 16},
        {"sequences": 2},
        {"trained": 10 * _LORA},
        {"accumulation": 4},
    ],
)
def test_what_costs_more(change: dict[str, object]) -> None:
    assert _peak_gib(replace(_lora(), **change)) > _peak_gib(_lora())  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"is_padded": False}, {"head": "none"}, {"recomputed": True}, {"length": 512}])
def test_what_costs_less(change: dict[str, object]) -> None:
    assert _peak_gib(replace(_lora(), **change)) < _peak_gib(_lora())  # type: ignore[arg-type]


def test_few_bits_hold_a_large_model_small() -> None:
    trained = adapter_parameters(_EIGHT_B, LoraSettings())
    stored = Load(trained=trained, is_adapter=True, is_mixed=True, length=8)
    held = training_memory(_EIGHT_B, replace(stored, base="nf4")).weights / _GIB
    assert training_memory(_EIGHT_B, stored).weights / _GIB == pytest.approx(15.1, abs=0.1)
    assert held == pytest.approx(0.516 * 6.5 + 4 * 0.98, abs=0.3)


def test_parts_of_a_model_are_shared() -> None:
    whole = Load(trained=_EIGHT_B.parameters, is_adapter=False, is_mixed=True, length=8)
    assert training_memory(_EIGHT_B, replace(whole, shares=4)).weights == training_memory(_EIGHT_B, whole).weights / 4


# By a stage's table


def _sft(adapter: LoraSettings | None = None, **train: object) -> Told:
    return told_by(SftStage(from_="base", data={"rows": 1.0}, adapter=adapter, train=SftTraining(**train)))  # type: ignore[arg-type]


def test_a_table_says_what_is_put_on_a_device() -> None:
    told = told_by(
        DpoStage(
            from_="base",
            data={"rows": 1.0},
            adapter=LoraSettings(base="nf4", dropout=0.1),
            train=DpoTraining(precision="mixed-bfloat16"),
        )
    )
    load = load_of(_ONE_B, told, rows=2, length=100, share=8)
    assert (load.trained, load.is_adapter, load.is_mixed, load.base) == (_LORA, True, True, "nf4")
    assert (load.rows, load.sequences, load.length, load.accumulation, load.dropout) == (2, 2, 100, 4, True)
    assert load.tokens == 400
    assert (load.head, load.is_padded) == ("tiles", True)


def test_a_table_without_an_adapter_trains_the_weights_or_the_adapter_that_it_starts_from() -> None:
    told = _sft()
    assert load_of(_ONE_B, told, rows=1, length=1, share=1).trained == _ONE_B.parameters
    going_on = load_of(_ONE_B, replace(told, trained=_LORA), rows=1, length=1, share=1)
    assert (going_on.trained, going_on.is_adapter) == (_LORA, True)


def test_orpo_has_all_logits_at_once() -> None:
    told = told_by(OrpoStage(from_="base", data={"rows": 1.0}))
    assert load_of(_ONE_B, told, rows=1, length=1, share=1).head == "whole"


def test_what_would_fit_is_said_with_what_it_takes() -> None:
    assert what_fits(_EIGHT_B, _sft(precision="mixed-bfloat16"), length=2048, card_mib=80 * 1024) == (
        "write `adapter: {type: lora}` (takes 31.7 GiB)"
    )


def test_a_shorter_length_is_advised_where_it_is_enough() -> None:
    told = _sft(LoraSettings(), precision="mixed-bfloat16", max_length=32768)
    advice = what_fits(_EIGHT_B, told, length=32768, card_mib=80 * 1024)
    assert advice.startswith("write `train.max_length: 8192` (takes ")


def test_changes_that_do_only_together_are_advised_together() -> None:
    advice = what_fits(_EIGHT_B, _sft(max_length=4096), length=4096, card_mib=16 * 1024)
    assert advice.startswith(
        "write `train.precision: mixed-bfloat16` with `adapter: {type: lora, base: nf4}` with `train.max_length: 512`"
    )


def test_nothing_helps_on_a_card_that_is_far_too_small() -> None:
    assert what_fits(_EIGHT_B, _sft(), length=64, card_mib=2048) == (
        "use a card with more memory, or a smaller base: no setting of this stage makes it fit"
    )
