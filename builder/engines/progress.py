"""How far a training is, as lines for a person: step, loss, tokens a second, time left. Values only, no torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pace", "spell_duration"]

_REPORTS = 10
_QUIET_S = 30.0
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


def spell_duration(duration_s: float) -> str:
    """A duration in its two largest units, as ``2 h 05 min``."""
    left = max(0, round(duration_s))
    if left < _MINUTE_S:
        return f"{left} s"
    if left < _HOUR_S:
        return f"{left // _MINUTE_S} min {left % _MINUTE_S:02d} s"
    if left < _DAY_S:
        return f"{left // _HOUR_S} h {left % _HOUR_S // _MINUTE_S:02d} min"
    return f"{left // _DAY_S} d {left % _DAY_S // _HOUR_S:02d} h"


@dataclass(kw_only=True, slots=True)
class Pace:
    """Tells how fast this process goes on; the steps of an earlier try, and its own first one, do not count.

    The first step loads kernels and compiles, so it says nothing of those that follow.

    Attributes:
        steps: Optimiser steps of the whole training.
        step_tokens: Tokens of a step, on average; 0 where they are not known before.
        began: Step that this process began at.
        first_s: When its first step ended; ``None`` before that.
        said_s: When the last line was said.
    """

    steps: int
    step_tokens: float
    began: int = 0
    first_s: float | None = None
    said_s: float = 0.0

    def line(self, step: int, loss: float, now_s: float) -> str | None:
        """What to say after a step; ``None`` where it is not worth a line.

        Args:
            step: The step that has ended.
            loss: Its loss.
            now_s: The time, of a clock that only goes forward.
        """
        is_first = self.first_s is None
        if self.first_s is None:
            self.first_s, self.said_s = now_s, now_s
        is_round = step % max(1, self.steps // _REPORTS) == 0
        if not (is_first or is_round or step == self.steps or now_s - self.said_s >= _QUIET_S):
            return None
        self.said_s = now_s
        done, taken_s = step - self.began - 1, now_s - self.first_s
        said = f"step {step} of {self.steps}, loss {loss:.4f}"
        if done < 1 or taken_s <= 0:
            return said
        if self.step_tokens:  # of answers that are yet to be sampled nobody knows
            said = f"{said}, {self.step_tokens * done / taken_s:,.0f} tokens/s"
        left_s = taken_s / done * (self.steps - step)
        return f"{said}, {spell_duration(left_s)} left" if step < self.steps else said
