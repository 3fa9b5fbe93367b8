"""Progress notes as values; what forged ones gain is shown in tests/attacks/test_progress_note.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from registry import progress_note
from registry.envelope import opened, seal
from registry.errors import DeniedError, InvalidError
from registry.progress_note import NAMESPACE, ProgressNote, Scope, note_path, open_note, seal_note
from registry.ssh_signature import public_key_of
from tests.keys import make_key
from tests.repositories import make_record

if TYPE_CHECKING:
    from pathlib import Path

SCOPE = Scope(kind="requests", commit="a" * 40)
NOTE = ProgressNote(scope=SCOPE, record=make_record("calm:tone"), listing_oid=f"{'b' * 32}.dir")
ACTION = NOTE.record.action.digest


def test_a_note_is_read_back_as_it_was_signed(tmp_path: Path) -> None:
    key = make_key(tmp_path, "gpu")
    believed = {"old": public_key_of(make_key(tmp_path, "old")), "gpu-1": public_key_of(key)}
    assert open_note(seal_note(NOTE, key), believed, SCOPE, ACTION, where="here") == (NOTE, "gpu-1")
    with pytest.raises(DeniedError, match="no trusted key signed this"):
        open_note(seal_note(NOTE, key), {}, SCOPE, ACTION, where="here")


def test_where_a_note_lies() -> None:
    """Below a name that no variant can have, so it is nobody's descriptor."""
    assert note_path(SCOPE, ACTION) == f"varietal/progress_notes/requests/{'a' * 40}/{ACTION.hex}.json"


def test_a_signature_of_one_namespace_is_none_of_another(tmp_path: Path) -> None:
    key = make_key(tmp_path, "gpu")
    public = public_key_of(key)
    for made, asked in ((NAMESPACE, "varietal-descriptor"), ("varietal-descriptor", NAMESPACE), ("git", NAMESPACE)):
        data = seal(b"{}", [key], namespace=made)
        assert opened(data, [public], where="here", max_bytes=9999, namespace=made) == (b"{}", (public,))
        with pytest.raises(DeniedError, match="does not hold"):
            opened(data, [public], where="here", max_bytes=9999, namespace=asked)


def test_what_would_be_too_long_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_note, "MAX_NOTE_BYTES", 100)
    with pytest.raises(InvalidError, match="its note would have"):
        seal_note(NOTE, make_key(tmp_path, "gpu"))
