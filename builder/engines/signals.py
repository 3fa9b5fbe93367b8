"""What asks a training to end: SIGINT and SIGTERM wait until the step is done; the same once more ends it at once."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["Asked", "listening"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Asked:
    """Whether the process was asked to end, and by what."""

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.number = 0

    @property
    def name(self) -> str:
        """Name of the signal, such as ``SIGTERM``; of any, where only another process of the training heard it."""
        return signal.Signals(self.number).name if self.number else "a signal"

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Remember the first; a second of the same kind is somebody who does not want to wait.

        Raises:
            KeyboardInterrupt: It is the second of its kind.
        """
        del frame
        if number == self.number:
            raise KeyboardInterrupt
        self.number = self.number or number


@contextmanager
def listening() -> Iterator[Asked]:
    """Keep the signals that ask for an end, instead of ending by them; those that the process ignores stay ignored.

    Only the main thread can listen: elsewhere nothing is ever heard.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    kept = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in kept.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, asked.hear)
    try:
        yield asked
    finally:
        for number in ours:
            signal.signal(number, kept[number] or signal.SIG_DFL)
