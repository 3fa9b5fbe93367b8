"""A pipeline is written as PyYAML writes it, byte for byte, whatever its names and paths are."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from builder.pipeline_text import pipeline_text
from registry.yaml12 import is_text, load

if TYPE_CHECKING:
    from collections.abc import Sequence

_ODD = [*"ab0-_./@+ :#'\"é[]{}&*!%|>,?yn~=<\\\t1e", "yes", "Null", "on", "12:30", "...", "---", "- ", "😀", "x" * 130]
_USUAL = [*"ab0-_./@+ y", "yes", "no", "on", "Null", "-"]


class _Dumper(yaml.SafeDumper):
    """As the text of a pipeline always was made."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if is_text(data) else "'")


_Dumper.add_representer(str, _Dumper.represent_str)


def _document(chance: random.Random, letters: Sequence[str]) -> dict[str, Any]:
    def word() -> str:
        return "".join(chance.choice(letters) for _ in range(chance.randint(0, 6)))

    stages = {
        word(): {
            "cmd": word(),
            "deps": [word() for _ in range(chance.randint(0, 3))],
            "params": [{word(): [word()]}, {word(): []}],
            "meta": {},
        }
        for _ in range(2)
    }
    return {"stages": stages, "metrics": [word()]}


@pytest.mark.parametrize("letters", [_ODD, _USUAL], ids=["odd", "usual"])
def test_it_is_pyyaml_s(letters: Sequence[str]) -> None:
    chance = random.Random(1)  # noqa: S311 - documents, nothing secret
    for _ in range(1500):
        document = _document(chance, letters)
        expected = yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=1 << 20)
        assert pipeline_text(document) == expected


def test_it_is_read_back() -> None:
    chance = random.Random(2)  # noqa: S311 - as above
    for _ in range(300):
        document = _document(chance, _USUAL)
        assert load(pipeline_text(document), "dvc.yaml").value == document
