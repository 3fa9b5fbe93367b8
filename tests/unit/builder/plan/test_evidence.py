"""What lies in the repository, as a plan reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.plan.digests import Digests
from builder.plan.evidence import Evidence, TreeTexts
from builder.plan.memo import Memo
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("text", ["outs: 3\n", "outs: []\n", "outs:\n- path: x.jsonl\n", "outs:\n- md5: 7\n", "[]\n"])
def test_a_data_file_s_pointer_that_names_no_bytes_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x.jsonl.dvc").write_text(text)
    evidence = Evidence(tmp_path, Digests(tmp_path, Memo(tmp_path)), TreeTexts(tmp_path), {}, in_tree=True)
    with pytest.raises(InvalidError) as caught:
        evidence.data_md5("data/x.jsonl")
    assert str(caught.value).splitlines()[:2] == [
        "the file names no output with an md5",
        "  where: data/x.jsonl.dvc",
    ]
