"""How many rows a device takes at once: by the plan's own formula, or by tokens where there is no GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.adapter_settings import LoraSettings
from builder.engines.schedule import choose_split
from builder.plan.memory import Network, adapter_parameters
from builder.plan.training_load import Told, load_of
from builder.plan.training_memory import training_memory
from builder.stages.room import Room
from builder.train_settings import SftTraining

_GIB = 1 << 30
_NETWORK = Network(
    parameters=1_100_048_384, layers=22, hidden=2048, inner=5632, keys=256, vocabulary=32000, stored_bytes=2
)
_TOLD = Told(kind="sft", training=SftTraining(precision="mixed-bfloat16"), adapter=LoraSettings(), sequences=1)
_ROOM = Room(
    network=_NETWORK,
    told=_TOLD,
    trained=adapter_parameters(_NETWORK, LoraSettings()),
    length=1024,
    share=16,
    shares=1,
    free_bytes=20 * _GIB,
    row_tokens=1024,
)


def _micro_batch(room: Room) -> int:
    return choose_split(batch=room.share, wanted=0, fits=room.fits, threads=1).micro_batch


def test_the_largest_micro_batch_that_the_plan_says_fits() -> None:
    assert _micro_batch(_ROOM) == 8
    peak = training_memory(_NETWORK, load_of(_NETWORK, _TOLD, rows=8, length=1024, share=16)).peak_bytes
    assert 16 * _GIB < peak < 20 * _GIB
    assert _micro_batch(replace(_ROOM, free_bytes=80 * _GIB)) == 16
    assert _micro_batch(replace(_ROOM, free_bytes=5 * _GIB)) == 1


def test_a_device_that_shares_the_weights_takes_more() -> None:
    whole = replace(_ROOM, told=replace(_TOLD, adapter=None), trained=_NETWORK.parameters, free_bytes=22 * _GIB)
    assert _micro_batch(whole) == 1
    assert _micro_batch(replace(whole, shares=4)) > 1


def test_without_a_gpu_tokens_are_counted() -> None:
    room = replace(_ROOM, network=None, free_bytes=0, row_tokens=5000)
    assert [room.fits(rows) for rows in (1, 3, 4)] == [True, True, False]
    assert (room.memory(), room.smaller()) == ("", "")


def test_what_is_said_where_a_single_row_did_not_fit() -> None:
    room = replace(_ROOM, told=replace(_TOLD, adapter=None), trained=_NETWORK.parameters, free_bytes=12 * _GIB)
    assert room.memory() == "it takes about 21.1 GiB, 12.0 GiB are there"
    assert room.smaller().startswith("write `adapter: {type: lora}` (takes ")


@pytest.mark.parametrize("length", [128, 8192])
def test_longer_rows_take_more(length: int) -> None:
    other = replace(_ROOM, length=length)
    assert (_micro_batch(other) > _micro_batch(_ROOM)) == (length < 1024)
