"""What settings must keep together is said before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.load import load
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

GROWN = "{kind: pretrain, data: texts, network: {layers: 1, hidden_size: 64, heads: 4}}"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (
            f"grown: {GROWN.replace('hidden_size: 64', 'hidden_size: 60')}",
            "stages.grown.network.heads: a head is 15 units wide\n  mend: make every head an even number of units wide",
        ),
        (
            f"grown: {GROWN}, x: {{kind: dpo, from: grown, data: likes, train: {{loss: ipo, label_smoothing: 0.1}}}}",
            "stages.x.train.label_smoothing: the ipo loss has no label smoothing\n  mend: write 0, or `loss: sigmoid`",
        ),
    ],
)
def test_settings_that_no_stage_could_run(tmp_path: Path, stages: str, said: str) -> None:
    (tmp_path / "params.yaml").write_text("bases: {}\n")
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "models/grain").mkdir(parents=True)
    (tmp_path / "models/grain/model.yaml").write_text(
        "data: {texts: {path: rows.jsonl, format: text}, likes: {path: rows.jsonl, format: preference}}\n"
        f"stages: {{{stages}}}\nrelease: grown\n"
    )
    with pytest.raises(InvalidError) as caught:
        load(tmp_path)
    assert [str(fault).partition(" ")[2] for fault in caught.value.faults] == [said]
