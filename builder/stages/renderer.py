"""Chat templates rendered again and again during a training, by one process that lives as long.

What it does is what ``builder.stages.templates.render`` does, whose child it is. Where a template breaks a limit or
refuses a conversation, that function is asked once more, and tells it. No torch.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.stages.line_child import LineChild
from builder.stages.templates import Limits, Rendered, is_marked, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.stages.templates import Chat

__all__ = ["Renderer"]

_CHILD = Path(__file__).with_name("sandbox.py")
_LIMITS = Limits(row_bytes=1 << 20)
_TOTAL_S, _TOTAL_BYTES = 3600.0, 1 << 40  # of one process; where it has used them up, another one is started
_CLOCK_S = 60.0  # by the clock, for a conversation on a busy machine


class Renderer:
    """Renders with one template."""

    def __init__(self, template: str, variables: Mapping[str, Any]) -> None:
        """No process is started yet.

        Args:
            template: Text of the template.
            variables: What the template sees beside the messages.
        """
        self._template, self._variables = template, dict(variables)
        self._child: LineChild | None = None

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """Render conversations; arguments and errors as of :func:`builder.stages.templates.render`."""
        found: list[Rendered] = []
        for chat in chats:
            one = self._one(chat)
            if one is None:
                self.close()
                return render(self._template, chats, variables=self._variables)
            found.append(one)
        return found

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _one(self, chat: Chat) -> Rendered | None:
        """``None`` where the process says anything but a text."""
        messages = [{"role": one["role"], "content": one["content"]} for one in chat.messages]
        request = json.dumps({"messages": messages, "opened": chat.opened}).encode()
        try:
            answer = json.loads(self._started().ask(request, _CLOCK_S) or b"{}")
        except (OSError, TimeoutError, ValueError):
            return None
        if "text" not in answer:
            return None
        return Rendered(text=answer["text"], spans=tuple((start, end) for start, end in answer["spans"]))

    def _started(self) -> LineChild:
        if self._child is None:
            task = {
                "template": self._template,
                "marked": is_marked(self._template),
                "variables": self._variables,
                "limits": {**asdict(_LIMITS), "total_s": _TOTAL_S, "total_bytes": _TOTAL_BYTES},
            }
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._child = LineChild([sys.executable, "-P", str(_CHILD)], environment=environment)
            self._child.tell(json.dumps(task).encode(), _CLOCK_S)
        return self._child
