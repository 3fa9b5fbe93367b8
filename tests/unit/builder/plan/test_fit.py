"""A plan with trainings that no micro-batch makes fit is refused, with what would."""

from __future__ import annotations

import pytest

from builder.address import Address
from builder.plan.fit import check_fits
from builder.plan.values import Estimate, PlannedStage
from registry.errors import RefusedError


def _stage(name: str, does_not_fit: str = "") -> PlannedStage:
    address = Address(variant="support", stage=name)
    return PlannedStage(address=address, kind="sft", verdict="run", estimate=Estimate(does_not_fit=does_not_fit))


def test_every_one_is_named_with_what_would_fit() -> None:
    check_fits([_stage("tone"), _stage("pref")])
    with pytest.raises(RefusedError) as caught:
        check_fits([_stage("tone", "write `train.max_length: 512`"), _stage("fine"), _stage("pref", "use a card")])
    assert str(caught.value) == (
        "2 trainings do not fit the card (`card_memory_gib:` of .varietal/runner.yaml), not even a single row at a "
        "time\n  where: support:tone, support:pref\n"
        "  mend: support:tone: write `train.max_length: 512`; support:pref: use a card"
    )
    assert caught.value.exit_code == 1
