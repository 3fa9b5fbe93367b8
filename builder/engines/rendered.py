"""The tokenizer that a trainer is given: messages come rendered, and what is short is filled up.

The base's own template runs in no trainer: it is somebody else's code, and was rendered in a process of its own.
"""

from __future__ import annotations

from copy import copy
from typing import Any

__all__ = ["reader_of"]

_AS_RENDERED = "{{ messages[-1]['content'] }}"


def reader_of(tokenizer: Any) -> Any:  # noqa: ANN401 - transformers has no types
    """A copy of a tokenizer that takes the last message for the whole conversation, and has a padding token."""
    reader = copy(tokenizer)
    reader.chat_template = _AS_RENDERED
    if reader.pad_token is None:
        reader.pad_token = reader.eos_token
    return reader
