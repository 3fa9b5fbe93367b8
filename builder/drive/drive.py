"""The loop of a build: starts what is ready, waits for ends and signals, and never leaves a process behind.

A first SIGINT, SIGTERM or SIGHUP starts nothing more and asks every group to end; a second one kills them. Whatever
ends this process otherwise closes the pipes that the groups live by, and their supervisors end them.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from builder.drive.outcome import Outcome, Report
from builder.drive.processes import start
from builder.drive.progress import Seen
from builder.drive.schedule import Schedule
from registry.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from builder.drive.dvc import Ending, How
    from builder.drive.processes import Running
    from builder.drive.progress import Lines, Screen
    from builder.drive.pushes import Pushes
    from builder.drive.schedule import Task
    from builder.drive.slots import Slot, Slots
    from builder.drive.step import Step, Work
    from builder.edges import Address

__all__ = ["drive"]

_TICK_S = 0.5
_TRIES = 8
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Event: TypeAlias = "tuple[Address | None, int]"
"""A task's command, or without a task the push, ended with this code."""


@dataclass(kw_only=True, slots=True)
class _Attempt:
    """A task that has been started.

    Attributes:
        task: The task.
        began_s: When its first try started.
        slot: What it has of the machine.
        steps: What is still to be done, the running step first.
        running: The command that runs.
        offset: Where in the log its words begin.
        tries: How often it was started.
        last: How the try before ended.
    """

    task: Task
    began_s: float
    slot: Slot
    steps: list[Step]
    running: Running | None = None
    offset: int = 0
    tries: int = 0
    last: How | None = None


def drive(
    tasks: Iterable[Task],
    slots: Slots,
    work: Work,
    view: Lines | Screen,
    *,
    root: Path,
    grace_s: float,
    lost: Callable[[Address], None],
    pushes: Pushes | None = None,
) -> Report:
    """Do all tasks, as many at once as there are slots.

    Args:
        tasks: What is to be done.
        slots: What each of those that run at once has of the machine.
        work: How a task is done.
        view: Shows what happens.
        root: Where the commands stand.
        grace_s: Seconds that a task is given to end before it is killed.
        lost: Called where the supervisor of a task was killed: ends what the task left running.
        pushes: Sends bytes as tasks end; ``None`` where they stay.

    Returns:
        What became of everything; nothing of it runs any more.
    """
    loop = _Loop(
        tasks=tasks,
        slots=slots,
        work=work,
        view=view,
        root=root,
        grace_s=grace_s,
        lost=lost,
        pushes=pushes,
    )
    with _signals(loop.signalled):
        try:
            return loop.run()
        finally:
            view.close()


class _Loop:
    """One build."""

    def __init__(
        self,
        *,
        tasks: Iterable[Task],
        slots: Slots,
        work: Work,
        view: Lines | Screen,
        root: Path,
        grace_s: float,
        lost: Callable[[Address], None],
        pushes: Pushes | None,
    ) -> None:
        self._schedule = Schedule(tasks, slots=len(slots), hold=self._hold, let_go=slots.let_go)
        self._slots = slots
        self._work = work
        self._view = view
        self._root = root
        self._grace_s = grace_s
        self._lost = lost
        self._pushes = pushes
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._attempts: dict[Address, _Attempt] = {}
        self._refused: dict[Address, Error] = {}
        self._outcomes: list[Outcome] = []
        self._stopped_by = 0
        self._killing = False

    def signalled(self, number: int) -> None:
        """Note a signal; called between two instructions of the loop, so nothing else is done here."""
        self._killing = self._stopped_by != 0
        self._stopped_by = self._stopped_by or number

    def run(self) -> Report:
        told = (0, False)
        while self._push_goes_on() or not self._schedule.is_over:  # in this order: bytes go while stages run
            if (self._stopped_by, self._killing) != told:
                told = (self._stopped_by, self._killing)
                self._stop()
            self._start_ready()
            try:
                address, code = self._events.get(timeout=_TICK_S)
            except Empty:
                self._show()
                continue
            if address is not None:
                self._step_ended(self._attempts[address], code)
            elif self._pushes is not None:
                for line in self._pushes.ended(code):
                    self._view.note(line)
            self._show()
        pushes = self._pushes
        return Report(
            outcomes=tuple(self._outcomes),
            stopped_by=self._stopped_by,
            unpushed=pushes.problem if pushes else "",
            push_code=pushes.exit_code if pushes else 0,
            pushed=pushes.moved if pushes else 0,
        )

    def _push_goes_on(self) -> bool:
        """Whether bytes are moving, or have yet to; the last of them go when all tasks are over."""
        if self._pushes is None:
            return False
        if not self._stopped_by:
            if self._schedule.is_over:
                self._pushes.offer_rest()
            running = self._pushes.start_next()
            if running is not None:
                self._wait_for(None, running)
        return self._pushes.is_running

    def _start_ready(self) -> None:
        if self._stopped_by:
            return
        for task, number in self._schedule.take(time.monotonic()):
            attempt = self._attempts.get(task.address)
            if attempt is None:
                attempt = _Attempt(task=task, began_s=time.monotonic(), slot=self._slots[number], steps=[])
                self._attempts[task.address] = attempt
                self._view.started(task.address, self._work.why(task.address))
            attempt.slot = self._slots[number]
            attempt.tries += 1
            try:
                if task.address in self._refused:
                    raise self._refused.pop(task.address)
                attempt.steps = list(self._work.steps(task, attempt.slot, attempt.last))
                self._begin(attempt)
            except (Error, OSError) as error:
                self._failed(attempt, getattr(error, "exit_code", 8), getattr(error, "what", str(error)))

    def _hold(self, address: Address, number: int) -> bool:
        """Give a slot what a task needs; an error is noted, so that the task gets its turn and fails alone."""
        try:
            return self._slots.hold(address, number)
        except Error as error:
            self._refused[address] = error
            return True

    def _begin(self, attempt: _Attempt) -> None:
        """Start the first of the steps that are left."""
        step, log = attempt.steps[0], self._work.log(attempt.task.address)
        again = attempt.tries > 1 or attempt.running is not None
        attempt.offset = log.stat().st_size if again and log.exists() else 0
        attempt.running = start(
            step.command,
            folder=self._root,
            environment=step.environment,
            log=log,
            grace_s=self._grace_s,
            again=again,
            handed=attempt.slot.handed,
        )
        self._wait_for(attempt.task.address, attempt.running)
        if self._stopped_by:  # the signal came in between
            attempt.running.stop()

    def _wait_for(self, address: Address | None, running: Running) -> None:
        threading.Thread(target=lambda: self._events.put((address, running.wait())), daemon=True).start()

    def _step_ended(self, attempt: _Attempt, code: int) -> None:
        address = attempt.task.address
        if code < 0:
            self._lost(address)
        ending = attempt.steps.pop(0).read(code, self._said(attempt))
        if ending.reason and not ending.exit_code and not self._stopped_by:
            self._view.note(f"{address}: {ending.reason}")
        if ending.exit_code and self._stopped_by:
            self._schedule.fail(address)
            self._over(attempt, Outcome(address=address, became="stopped"))
        elif ending.how in {"busy", "unlocked"} and attempt.tries < _TRIES:
            self._postpone(attempt, ending)
        elif ending.exit_code:
            self._failed(attempt, ending.exit_code, ending.reason)
        elif attempt.steps and not self._stopped_by:
            self._go_on(attempt)
        elif attempt.steps:
            self._schedule.fail(address)
            self._over(attempt, Outcome(address=address, became="stopped"))
        else:
            self._schedule.succeed(address)
            self._over(attempt, Outcome(address=address, became=ending.how))
            if self._pushes is not None:
                self._pushes.offer(address)

    def _go_on(self, attempt: _Attempt) -> None:
        try:
            self._begin(attempt)
        except (Error, OSError) as error:
            self._failed(attempt, getattr(error, "exit_code", 8), getattr(error, "what", str(error)))

    def _postpone(self, attempt: _Attempt, ending: Ending) -> None:
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt.tries)
        attempt.last, attempt.running = ending.how, None
        self._schedule.postpone(attempt.task.address, until_s=time.monotonic() + pause_s)
        self._view.note(f"again    {attempt.task.address}  in {pause_s:.0f} s: {ending.reason}")

    def _failed(self, attempt: _Attempt, code: int, reason: str) -> None:
        address = attempt.task.address
        skipped = self._schedule.fail(address)
        self._over(attempt, Outcome(address=address, became="failed", exit_code=code, reason=reason))
        for other in skipped:
            self._tell(Outcome(address=other, became="skipped", reason=f"it needs {address}"))

    def _over(self, attempt: _Attempt, outcome: Outcome) -> None:
        log = self._work.log(outcome.address)
        self._tell(
            Outcome(
                address=outcome.address,
                became=outcome.became,
                exit_code=outcome.exit_code,
                reason=outcome.reason,
                duration_s=time.monotonic() - attempt.began_s,
                log=str(log.relative_to(self._root)),
                tries=attempt.tries,
            )
        )
        del self._attempts[outcome.address]

    def _tell(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._view.ended(outcome)

    def _stop(self) -> None:
        """Start nothing more, and end what runs: by asking, then by force."""
        if not self._killing:
            self._view.note("stopping: running stages are asked to end; once more to kill them")
        for address in self._schedule.drop_waiting():
            self._attempts.pop(address, None)
            self._outcomes.append(Outcome(address=address, became="stopped"))
        for attempt in self._attempts.values():
            if attempt.running is not None:
                attempt.running.kill() if self._killing else attempt.running.stop()
        if self._pushes is not None:
            self._pushes.stop()

    def _said(self, attempt: _Attempt) -> str:
        with self._work.log(attempt.task.address).open("rb") as stream:
            stream.seek(attempt.offset)
            return stream.read().decode(errors="replace")

    def _show(self) -> None:
        now_s = time.monotonic()
        running = [self._attempts[address] for address in self._schedule.running]
        rows = [
            Seen(
                address=one.task.address,
                since_s=now_s - one.began_s,
                log=self._work.log(one.task.address),
                device=one.slot.device,
            )
            for one in running
        ]
        self._view.show(rows, len(self._schedule.waiting))


@contextmanager
def _signals(note: Callable[[int], None]) -> Iterator[None]:
    """Take the signals that end a process, and put back who had them before."""
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # `nohup` ignores one
    before = {number: signal.signal(number, lambda got, _: note(got)) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
