"""What `varietal pin` refuses before it reads anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.pin import pin
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("source", "where"), [("", "varietal pin"), (".", "."), ("models/..", "models/..")])
def test_the_repository_itself_is_no_model(tmp_path: Path, source: str, where: str) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(InvalidError) as caught:
        pin(tmp_path, source)
    assert str(caught.value) == (
        f"the folder is the repository itself\n  where: {where}\n  mend: name a folder within it"
    )
