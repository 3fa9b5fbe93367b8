"""Reward functions, each in a process of its own: without credentials in its environment, under limits of time.

A reward function is code of the repository, and runs with the rights of who trains. It gets no variable of this process
but those that a program needs to start, an empty folder as its home and working folder, and it is asked for numbers
only: what it gives back is checked here. The process lives as long as the training; how it ends is told with the row
that it was asked about. No torch.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from builder.stages.line_child import LineChild
from registry.digest import digest_bytes
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from builder.stage import Input

__all__ = ["Answers", "Limits", "RewardProcess"]

_CHILD = Path(__file__).with_name("reward_child.py")
_PASSED: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT")
_GIVEN: Final = frozenset({"prompts", "completions"})
_START_S = 60.0  # by the clock, for a busy machine to start the process


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the process may take.

    Attributes:
        call_s: Seconds by the clock, and of the processor, for one call; also for what the file does when it is loaded.
        memory_bytes: Private memory of the process.
    """

    call_s: float = 60.0
    memory_bytes: int = 8 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Answers that a model gave, to be rated.

    Attributes:
        prompts: Of each answer what was asked: a text, or messages, as the row has it.
        completions: The answers: each a text, or a list of one message.
        columns: Further columns of the rows, each as long as there are answers.
        rows: Which row each belongs to, for messages.
    """

    prompts: Sequence[Any]
    completions: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[str]

    def one(self, at: int) -> Answers:
        """The answer at a place, alone."""
        columns = {name: values[at : at + 1] for name, values in self.columns.items()}
        end = at + 1
        return Answers(
            prompts=self.prompts[at:end],
            completions=self.completions[at:end],
            columns=columns,
            rows=self.rows[at:end],
        )


class RewardProcess:
    """A reward function in a process of its own.

    Attributes:
        where: File and function, for messages.
    """

    def __init__(self, code: Input, function: str, limits: Limits) -> None:
        """Start the process and load the file in it.

        Args:
            code: The file; its bytes were verified, and are verified again.
            function: Name of the function.
            limits: What the process may take.

        Raises:
            InvalidError: The file cannot be loaded, or was changed since it was verified.
            MachineError: The process cannot be started, or was killed from outside.
        """
        self.where = f"{code.file}: {function}"
        self._limits = limits
        task = {
            "code": _code(code),
            "file": code.file,
            "function": function,
            "call_s": limits.call_s,
            "memory_bytes": limits.memory_bytes,
        }
        command = [sys.executable, "-P", "-s", str(_CHILD)]
        self._home = tempfile.TemporaryDirectory(prefix="varietal-reward-")
        try:
            self._child = LineChild(command, environment=_environment(self._home.name), folder=self._home.name)
        except OSError as error:
            self._home.cleanup()
            raise MachineError(
                f"the process of the reward function cannot be started: {error.strerror}",
                where=self.where,
                mend="see that the machine has processes and memory to spare, then run again",
            ) from error
        try:
            self._parameters = self._loaded(task)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """The process itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing; more than once does no harm."""
        self._child.close()
        self._home.cleanup()

    def _loaded(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        """The function's parameters, once the file is loaded."""
        answer = self._ask(task, _START_S + self._limits.call_s, "loading the file")
        if "fault" in answer:
            raise InvalidError(
                f"the reward function raises when it is loaded: {_said(answer)}",
                where=self.where,
                mend="load the file by itself, with the Python of this tool",
            )
        found: Mapping[str, Any] = answer["parameters"]
        return found

    def missing(self, columns: Collection[str]) -> tuple[str, ...]:
        """Parameters that it must be given and that are no columns."""
        return tuple(name for name in self._parameters["needed"] if name not in _GIVEN and name not in columns)

    def rate(self, answers: Answers) -> list[float]:
        """A finite number for each answer.

        Raises:
            InvalidError: It raises, takes too long, or does not give one finite number for each answer.
            MachineError: Its process was killed from outside.
        """
        found = self._call(answers)
        if "fault" in found:
            raise self._fault(found, answers)
        values = found["values"]
        if len(values) != len(answers.rows):
            raise InvalidError(
                f"the reward function gave {len(values)} numbers for {len(answers.rows)} answers",
                where=self.where,
                mend="make it give one number for each of `completions`, in their order",
            )
        for row, value in zip(answers.rows, values, strict=True):
            if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
                raise InvalidError(
                    f"the reward function gave {value!s:.60} for an answer, which is no finite number",
                    where=f"{self.where}, {row}",
                    mend="make it give plain finite numbers, such as float(x); 0.0 where it has nothing to say",
                )
        return [float(value) for value in values]

    def _call(self, answers: Answers) -> dict[str, Any]:
        given = {"prompts": answers.prompts, "completions": answers.completions, **answers.columns}
        taken = given if self._parameters["any"] else {n: given[n] for n in self._parameters["taken"] if n in given}
        return self._ask(taken, self._limits.call_s, answers.rows[0] if answers.rows else "no rows")

    def _fault(self, found: Mapping[str, Any], answers: Answers) -> InvalidError:
        """What went wrong, with the row where one row alone shows it."""
        if found["fault"] == "shape":
            return InvalidError(
                f"the reward function gave {found['message']}, not a list of numbers",
                where=self.where,
                mend="make it give one number for each of `completions`, in their order",
            )
        if len(answers.rows) > 1:
            for at, row in enumerate(answers.rows):
                alone = self._call(answers.one(at))
                if alone.get("fault") == "raised":
                    return _raised(alone, f"{self.where}, {row}")
        return _raised(found, f"{self.where}, {answers.rows[0]} and others")

    def _ask(self, request: Mapping[str, Any], limit_s: float, about: str) -> dict[str, Any]:
        """One line out, one line in."""
        try:
            line = self._child.ask(json.dumps(request).encode(), limit_s)
        except TimeoutError:
            raise self._too_long(about) from None
        if not line:
            raise self._ended(about)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not {"fault", "values", "parameters"} & answer.keys():
            raise InvalidError(
                "the reward function writes to the pipe that its numbers come on",
                where=f"{self.where}, {about}",
                mend="let it write to files of its own only",
            )
        return answer

    def _too_long(self, about: str) -> InvalidError:
        return InvalidError(
            f"the reward function took more than {self._limits.call_s:g} s for one call",
            where=f"{self.where}, {about}",
            mend="make it faster, or raise `reward_s` in .varietal/runner.yaml",
        )

    def _ended(self, about: str) -> InvalidError | MachineError:
        """The error that a silent end of the process stands for."""
        status = self._child.status()
        if status == -signal.SIGPROF:
            return self._too_long(about)
        where = f"{self.where}, {about}"
        if status == -signal.SIGKILL:
            return MachineError(
                "the process of the reward function was killed from outside",
                where=where,
                mend="see that the machine has memory to spare, then run again",
            )
        return InvalidError(
            f"the reward function ended its own process, with status {status}",
            where=where,
            mend="make it return instead of ending the process",
        )


def _raised(found: Mapping[str, Any], where: str) -> InvalidError:
    return InvalidError(
        f"the reward function raises for an answer: {_said(found)}",
        where=where,
        mend="correct it; it is given what a model may answer, the empty answer too",
    )


def _said(found: Mapping[str, Any]) -> str:
    """What was raised, and where in the file."""
    return f"{found['message']} (line {found['line']})" if found["line"] else str(found["message"])


def _code(code: Input) -> str:
    """The text of the file, once it is the one that was verified."""
    data = code.path.read_bytes()
    if digest_bytes(data) != code.digest:
        raise InvalidError("the file was changed while the stage ran", where=code.file, mend="run again")
    return data.decode()


def _environment(home: str) -> dict[str, str]:
    """The variables of the process: nothing of ours that could be a secret, and the same order of sets each time."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {
        **passed,
        "HOME": home,
        "TMPDIR": home,
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
