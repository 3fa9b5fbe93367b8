"""The process that runs a reward function: requests from standard input, one answer a line on a pipe of its own.

Run by path, never imported: ``python -P -s reward_child.py``. The first line in holds the code, the function's name and
the limits; each further line is one call. What the function prints goes nowhere, so that it cannot be taken for an
answer. What it does to this process ends with this process; what it gives back is checked by who asked.
"""

from __future__ import annotations

import inspect
import json
import numbers
import os
import random
import resource
import signal
import sys
import traceback
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_MESSAGE = 500  # characters; a message may repeat what the function was given


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    task = json.loads(next(requests))
    _limit(task["memory_bytes"])
    random.seed(0)  # two builds draw the same by lot; what a resume draws is another matter
    function: Callable[..., Any] | None = None
    # Time of the processor on top of the asker's clock: it ends a loop whose asker was killed.
    signal.setitimer(signal.ITIMER_PROF, task["call_s"])
    try:
        function = _load(task)
        answer = json.dumps({"parameters": _parameters(function)})
    except BaseException as error:  # noqa: BLE001 - the code may raise anything, SystemExit too
        answer = _fault(error, task["file"])
    _say(answers, answer)
    for line in requests:
        signal.setitimer(signal.ITIMER_PROF, task["call_s"])
        _say(answers, _answer(function, json.loads(line), task["file"]))


def _say(answers: Any, line: str) -> None:  # noqa: ANN401 - a text stream
    signal.setitimer(signal.ITIMER_PROF, 0)
    answers.write(line + "\n")
    answers.flush()


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _load(task: dict[str, Any]) -> Callable[..., Any]:
    """The function, out of a module that is made of the code as it was hashed."""
    module = ModuleType("reward")
    module.__file__ = task["file"]
    sys.modules["reward"] = module
    exec(compile(task["code"], task["file"], "exec"), module.__dict__)  # noqa: S102 - what this process is for
    function: Callable[..., Any] = getattr(module, task["function"])
    return function


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Names that it must be given, names that it takes, and whether it takes any further one."""
    found = inspect.signature(function).parameters.values()
    named = [one for one in found if one.kind in {one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY}]
    return {
        "needed": [one.name for one in named if one.default is one.empty],
        "taken": [one.name for one in named],
        "any": any(one.kind is one.VAR_KEYWORD for one in found),
    }


def _answer(function: Callable[..., Any] | None, arguments: dict[str, Any], file: str) -> str:
    try:
        given: Any = function(**arguments) if function is not None else None
        if not hasattr(given, "__len__") or isinstance(given, str | bytes | dict):
            return json.dumps({"fault": "shape", "message": type(given).__name__})
        values: list[float | str] = [_number(one) for one in given]
        return json.dumps({"values": values})
    except BaseException as error:  # noqa: BLE001 - the function may raise anything, SystemExit too
        return _fault(error, file)


def _number(value: object) -> float | str:
    """A number as a float; of all else, and of what is no finite number, what it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return type(value).__name__
    number = float(value)
    return number if number - number == 0 else str(number)


def _fault(error: BaseException, file: str) -> str:
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == file]
    message = f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE]
    return json.dumps({"fault": "raised", "message": message, "line": lines[-1] if lines else 0})


if __name__ == "__main__":
    _main()
