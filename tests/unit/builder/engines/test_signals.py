"""Signals that ask for an end are kept for the length of a training, and no longer."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from builder.engines.signals import Asked, listening

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_kept_and_a_second_of_its_kind_ends_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with listening() as asked:
        assert asked.number == 0
        os.kill(os.getpid(), number)
        assert (asked.number, asked.name) == (number, number.name)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_another_signal_is_no_hurry() -> None:
    """A launcher that hears SIGINT sends SIGTERM to those that heard SIGINT too."""
    with listening() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked.name == "SIGINT"


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with listening() as asked:
        os.kill(os.getpid(), signal.SIGINT)
    assert asked.number == 0
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_hears_nothing_and_breaks_nothing() -> None:
    heard: list[Asked] = []

    def listen() -> None:
        with listening() as asked:
            heard.append(asked)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert [one.number for one in heard] == [0]


def test_nobody_asked() -> None:
    assert Asked().name == "a signal"
