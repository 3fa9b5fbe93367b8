"""Which task may start, and on which slot: rules on values. A failure stops what depends on it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from builder.edges import Address

__all__ = ["Schedule", "Task"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Something to be driven.

    Attributes:
        address: The stage; its name is ``records`` where the records of a variant are copied into git.
        needs: Tasks that must have succeeded before.
        twin: Equal for tasks that do the very same: one of them computes it, the others find it.
        weight_s: About how many seconds it takes; what the longest rest of the build hangs on starts first.
    """

    address: Address
    needs: frozenset[Address] = frozenset()
    twin: str = ""
    weight_s: float = 1.0


class Schedule:
    """The state of a build: every task waits, runs, or is over."""

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        slots: int,
        hold: Callable[[Address, int], bool] = lambda *_: True,
        let_go: Callable[[int], None] = lambda _: None,
    ) -> None:
        """All tasks wait; ``slots`` of them may run at once.

        Args:
            tasks: The tasks.
            slots: How many may run at once.
            hold: Asked before a task gets a slot: whether there is what it needs beside that.
            let_go: Told when a slot is free again.
        """
        self._tasks = {task.address: task for task in tasks}
        self._order = _by_rest(self._tasks)
        self._waiting = dict.fromkeys(self._order, 0.0)  # and until when
        self._running: dict[Address, int] = {}
        self._free = list(range(slots))
        self._hold = hold
        self._let_go = let_go
        self._succeeded: set[Address] = set()
        self._lost: set[Address] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing can start any more."""
        return not self._running and not self._waiting

    @property
    def running(self) -> tuple[Address, ...]:
        """What runs now."""
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Address, ...]:
        """What has not started yet."""
        return tuple(self._waiting)

    def take(self, now_s: float) -> list[tuple[Task, int]]:
        """Start what is ready: tasks with their slots, as far as slots are free."""
        taken: list[tuple[Task, int]] = []
        for address in self._order:
            if self._free and self._is_ready(address, now_s) and self._hold(address, self._free[0]):
                del self._waiting[address]
                self._running[address] = self._free.pop(0)
                taken.append((self._tasks[address], self._running[address]))
        return taken

    def succeed(self, address: Address) -> None:
        """A running task ended well."""
        self._release(address)
        self._succeeded.add(address)

    def postpone(self, address: Address, *, until_s: float) -> None:
        """A running task met something that passes: it waits again."""
        self._release(address)
        self._waiting[address] = until_s

    def fail(self, address: Address) -> tuple[Address, ...]:
        """A running task failed.

        Returns:
            What can not start any more for that reason, in the order of the build.
        """
        self._release(address)
        return self._lose(address)

    def drop_waiting(self) -> tuple[Address, ...]:
        """Give up what has not started; what runs goes on."""
        dropped = tuple(self._waiting)
        self._waiting.clear()
        self._lost.update(dropped)
        return dropped

    def _is_ready(self, address: Address, now_s: float) -> bool:
        if address not in self._waiting or self._waiting[address] > now_s:
            return False
        task = self._tasks[address]
        twins = {self._tasks[other].twin for other in self._running} - {""}
        return task.needs <= self._succeeded and task.twin not in twins

    def _release(self, address: Address) -> None:
        number = self._running.pop(address)
        self._let_go(number)
        self._free.append(number)
        self._free.sort()

    def _lose(self, address: Address) -> tuple[Address, ...]:
        self._lost.add(address)
        lost = []
        for other in _sorted(self._tasks):
            if other in self._waiting and self._tasks[other].needs & self._lost:
                del self._waiting[other]
                self._lost.add(other)
                lost.append(other)
        return tuple(lost)


def _sorted(tasks: Mapping[Address, Task]) -> list[Address]:
    """Each task after those that it needs.

    Raises:
        ValueError: Tasks need each other, or one that is not there.
    """
    ordered: dict[Address, None] = {}
    waiting = dict(tasks)
    while waiting:
        ready = [address for address, task in waiting.items() if task.needs <= ordered.keys()]
        if not ready:
            message = f"tasks that can never start: {', '.join(map(str, waiting))}"
            raise ValueError(message)
        for address in ready:
            ordered[address] = None
            del waiting[address]
    return list(ordered)


def _by_rest(tasks: Mapping[Address, Task]) -> list[Address]:
    """Those first that the longest rest of the build hangs on; among equals, in the order that they came in."""
    rest = {address: task.weight_s for address, task in tasks.items()}
    for address in reversed(_sorted(tasks)):
        for need in tasks[address].needs:
            rest[need] = max(rest[need], tasks[need].weight_s + rest[address])
    return sorted(tasks, key=lambda address: -rest[address])
