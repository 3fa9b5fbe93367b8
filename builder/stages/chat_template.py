"""Another chat template for a model: a file of the repository, tried before it is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.stages.templates import is_marked, probe
from registry.canonical import pretty
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.stage import Input
    from builder.weights.draft import Draft

__all__ = ["set_template"]

_FILE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_MAX_BYTES = 1 << 20


def set_template(draft: Draft, source: Input) -> Draft:
    """Give a model a chat template in place of its own.

    Args:
        draft: The model.
        source: The file.

    Raises:
        InvalidError: It is no text of at most 1 MiB, is broken, reaches out of its sandbox or passes a limit.
        MachineError: The process that tries it could not be started.
    """
    data = source.path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > _MAX_BYTES:
        raise InvalidError(
            "no text in UTF-8 of at most 1 MiB", where=source.file, mend="write the template into the file"
        )
    probe(text, where=source.file)
    files = {_FILE: data}
    config = draft.table(_CONFIG)
    if "chat_template" in config:  # the file would win, but not every reader looks for it
        files[_CONFIG] = pretty({key: value for key, value in config.items() if key != "chat_template"})
    said = "marks" if is_marked(text) else "does not mark"
    return draft.write(files).note(f"the chat template is that of {source.file}; it {said} the assistant's turns")
