"""The process that renders chat templates: requests from standard input, one answer a line on standard output.

Run by path, never imported: ``python -P sandbox.py``. The first line in holds the template, its variables and the
limits, each further line one conversation. Rendering is transformers' own, so what a template says here is what it
says anywhere. What a template can do to this process ends with this process: too much time of the processor by a
signal, too much memory by a failed allocation, an answer too long by the count.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

_LONGEST_MESSAGE = 500  # characters; a message may repeat what the template was given
_FAULTS = (  # what Python code of a template's own making can end with, beside running out of memory
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,
    TemplateError,
    TypeError,
    ValueError,
    re.error,
)


def _main() -> None:
    lines = iter(sys.stdin)
    task = json.loads(next(lines))
    limits = task["limits"]
    _limit(limits)
    room = limits["total_bytes"]
    for line in lines:
        # Time of the processor, not of the clock: a busy machine refuses no template. Without a handler this kills.
        signal.setitimer(signal.ITIMER_PROF, limits["row_s"])
        answer = _answer(task, json.loads(line), min(limits["row_bytes"], room))
        signal.setitimer(signal.ITIMER_PROF, 0)
        room -= len(answer)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _limit(limits: dict[str, Any]) -> None:
    """Limits from here on; what was imported counts towards memory and time."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (limits["memory_bytes"], limits["memory_bytes"]))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + limits["total_s"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _answer(task: dict[str, Any], request: dict[str, Any], room: int) -> str:
    """One line of JSON: a text with its marked spans, or a fault and its message."""
    try:
        texts, spans = render_jinja_template(
            conversations=[request["messages"]],
            chat_template=task["template"],
            return_assistant_tokens_mask=task["marked"],
            add_generation_prompt=request["opened"],
            **task["variables"],
        )
        answer = json.dumps({"text": texts[0], "spans": spans[0] if spans else []})
    except MemoryError:
        return _fault("memory", "")
    except TemplateSyntaxError as error:
        return _fault("syntax", f"line {error.lineno}: {error.message}")
    except SecurityError as error:
        return _fault("forbidden", str(error))
    except TemplateError as error:
        return _fault("refused", str(error))
    except _FAULTS as error:
        return _fault("refused", f"{type(error).__name__}: {error}")
    return answer if len(answer) <= room else _fault("output", "")


def _fault(name: str, message: str) -> str:
    return json.dumps({"fault": name, "message": message[:_LONGEST_MESSAGE]})


if __name__ == "__main__":
    _main()
