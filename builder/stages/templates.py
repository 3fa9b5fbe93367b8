"""Chat templates, rendered in a process of their own under limits.

A chat template comes with a model and is a program. Jinja's sandbox keeps it from reaching out, but not from running
for ever or filling the memory, and it may draw lots, so a rendering that went well once proves nothing of the next.
Therefore all conversations of a data set are rendered by one child process (``builder.stages.sandbox``), and what
came back is what is used: no template runs here. No torch and no transformers in this process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Chat", "Limits", "Rendered", "is_marked", "probe", "render"]

_CHILD = Path(__file__).with_name("sandbox.py")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MEAN_BYTES = 1 << 16  # of answers, a conversation: what a template may add to it on average
_GROWTH = 16  # times the bytes of the conversations, on top: escapes and repeated parts
_START_S = 60.0  # by the clock, for a busy machine to start the child
_CLOCK = 10.0  # times the time of the processor that a child may take by the clock
_PROBES = ("user", "assistant", "user")
_PROBE_VARIABLES = {name: f"<{name}>" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a child may take; all of it is far above what an honest template needs.

    Attributes:
        row_s: Seconds of the processor for one conversation.
        mean_s: Seconds of the processor a conversation on average, on top of ``row_s`` once.
        memory_bytes: Private memory of the child; its imports take about 75 MB of it.
        row_bytes: JSON of one rendered conversation.
    """

    row_s: float = 5.0
    mean_s: float = 0.05
    memory_bytes: int = 1 << 30
    row_bytes: int = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A conversation to render.

    Attributes:
        messages: Messages with ``role`` and ``content``; other keys are not shown to the template.
        where: Which row it is, for messages.
        opened: Whether to end with what opens an answer.
    """

    messages: Sequence[Mapping[str, str]]
    where: str
    opened: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: What the template made of it.
        spans: First character and end of each part that ``{% generation %}`` marks.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def is_marked(template: str) -> bool:
    """Whether the template marks what the assistant says."""
    return _GENERATION.search(template) is not None


def render(
    template: str, chats: Sequence[Chat], *, variables: Mapping[str, Any], limits: Limits | None = None
) -> list[Rendered]:
    """Render conversations.

    Args:
        template: Text of the template.
        chats: The conversations, in any number; one child renders them all.
        variables: What the template sees beside the messages: the tokenizer's special tokens.
        limits: What the child may take; by default ``Limits()``.

    Returns:
        As many as there are conversations, in their order.

    Raises:
        InvalidError: The template is broken, refuses a conversation, reaches out of its sandbox or passes a limit.
        MachineError: The child could not be started, or was killed from outside.
    """
    if not chats:
        return []
    answers = _answers(template, chats, variables, limits or Limits())
    for chat, answer in zip(chats, answers, strict=False):
        _check(answer, chat, limits or Limits())
    return [Rendered(text=one["text"], spans=tuple((start, end) for start, end in one["spans"])) for one in answers]


def probe(template: str, *, where: str, limits: Limits | None = None) -> None:
    """Render a few plain turns, as a test of a template from elsewhere.

    That the template refuses such turns is no fault: it may be made for others.

    Raises:
        InvalidError: The template is broken, reaches out of its sandbox or passes a limit.
        MachineError: The child could not be started, or was killed from outside.
    """
    messages = [{"role": role, "content": "Hello"} for role in _PROBES]
    chats = [
        Chat(messages=messages[:1], where=where, opened=True),
        Chat(messages=messages[:2], where=where),
        Chat(messages=messages, where=where, opened=True),
    ]
    for chat, answer in zip(chats, _answers(template, chats, _PROBE_VARIABLES, limits or Limits()), strict=False):
        if answer.get("fault") != "refused":
            _check(answer, chat, limits or Limits())


def _answers(
    template: str, chats: Sequence[Chat], variables: Mapping[str, Any], limits: Limits
) -> list[dict[str, Any]]:
    """What the child says, one answer a conversation; the last one is a fault where it ended before its time."""
    requests = [
        json.dumps({"messages": [_plain(message) for message in chat.messages], "opened": chat.opened})
        for chat in chats
    ]
    total_s = limits.row_s + limits.mean_s * len(chats)
    total_bytes = limits.row_bytes + _MEAN_BYTES * len(chats) + _GROWTH * sum(map(len, requests))
    task = {
        "template": template,
        "marked": is_marked(template),
        "variables": dict(variables),
        "limits": {**asdict(limits), "total_s": total_s, "total_bytes": total_bytes},
    }
    # Files, not pipes: neither side ever waits for the other, and the limit of bytes is the limit of the file.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said:
        asked.write("\n".join([json.dumps(task), *requests, ""]).encode())
        asked.seek(0)
        status = _run(asked.fileno(), said.fileno(), _START_S + _CLOCK * total_s)
        said.seek(0)
        answers = [json.loads(line) for line in said if line.endswith(b"\n")]
    if len(answers) < len(chats) and not any("fault" in answer for answer in answers):
        answers.append(_ended(status, chats[len(answers)], total_s=total_s, chats=len(chats)))
    return answers


def _run(asked: int, said: int, timeout_s: float) -> int:
    """Exit status of the child, below zero for the signal that ended it; running past the clock is a signal of time."""
    command = [sys.executable, "-P", str(_CHILD)]
    # One thread of numpy's: each takes memory of its own.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        return subprocess.run(
            command,
            stdin=asked,
            stdout=said,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=timeout_s,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return -signal.SIGXCPU


def _ended(status: int, chat: Chat, *, total_s: float, chats: int) -> dict[str, Any]:
    """The fault that a silent end stands for."""
    if status == -signal.SIGPROF:
        return {"fault": "time", "message": ""}
    if status == -signal.SIGXCPU:
        return {"fault": "total", "message": f"{total_s:g} s for all {chats} conversations"}
    if status in {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}:
        return {"fault": "crash", "message": signal.Signals(-status).name}
    raise MachineError(
        f"the process that renders chat templates ended with status {status}",
        where=chat.where,
        mend="run again; if it repeats, see that transformers imports and that the machine has memory to spare",
    )


def _check(answer: Mapping[str, Any], chat: Chat, limits: Limits) -> None:
    """Raise what the child could only report."""
    if "fault" not in answer:
        return
    message = answer["message"]
    take, repair = "change the row, or use a base whose template takes it", "use a base whose template can be trusted"
    what, mend = {
        "crash": (f"the chat template crashed the process that renders it ({message})", repair),
        "forbidden": (f"the chat template reaches for what its sandbox forbids: {message}", repair),
        "memory": (f"the chat template took more than {limits.memory_bytes >> 20} MiB of memory", repair),
        "output": (f"the chat template made more text than {limits.row_bytes} bytes a conversation", repair),
        "refused": (f"the chat template refuses the conversation: {message}", take),
        "syntax": (f"the chat template is not valid Jinja: {message}", "correct the template, or use another base"),
        "time": (f"the chat template took more than {limits.row_s:g} s for a conversation", repair),
        "total": (f"the chat template took more than {message}", repair),
    }[answer["fault"]]
    raise InvalidError(what, where=chat.where, mend=mend)


def _plain(message: Mapping[str, str]) -> dict[str, str]:
    return {"role": message["role"], "content": message["content"]}
