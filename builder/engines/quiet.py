"""The libraries' own talk, turned off: a stage speaks through its context, and errors through exceptions."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]

_LOGGERS = ("accelerate", "datasets", "peft", "trl")


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, no advice, no announcements of what a later version will change; other warnings pass."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\.")  # what matters is an error of ours
        yield
