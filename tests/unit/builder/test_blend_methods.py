"""What a blend says that its methods cannot have is found where the manifest is read, without torch."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from builder.blend_methods import BLEND_METHODS, Clash, clashes
from builder.weight_stages import BlendMethod, BlendRule, BlendSettings, BlendSource, BlendStage
from builder.weighting import Weighting
from registry.selector import Selector


def source(**numbers: float) -> BlendSource:
    return BlendSource(**{key: Weighting.of(value) for key, value in numbers.items()})


def stage(method: str, models: dict[str, BlendSource] | None = None, **rest: object) -> BlendStage:
    return BlendStage(method=method, models={"one": source(), "two": source()} if models is None else models, **rest)


def found(blend: BlendStage) -> list[tuple[str, str]]:
    return [(".".join(map(str, clash.path)), clash.problem) for clash in clashes(blend)]


def test_the_table_has_every_method_and_names_only_what_there_is() -> None:
    assert BLEND_METHODS.keys() == set(get_args(BlendMethod))
    sources, settings = ({one.name for one in fields(table)} for table in (BlendSource, BlendSettings))
    for needs in BLEND_METHODS.values():
        assert needs.source <= sources
        assert needs.settings <= settings
    for table, names in (("source", sources), ("settings", settings)):
        assert frozenset().union(*(getattr(needs, table) for needs in BLEND_METHODS.values())) == names


@pytest.mark.parametrize("method", sorted(BLEND_METHODS))
def test_a_stage_that_fits_has_no_clash(method: str) -> None:
    needs = BLEND_METHODS[method]
    models = {f"model-{number}": source() for number in range(max(needs.fewest, needs.most))}
    assert found(stage(method, models, against="" if needs.base == "unread" else "base")) == []


def test_a_missing_base_and_a_base_among_the_models() -> None:
    assert found(stage("ties")) == [("against", "ties needs a base")]
    assert found(stage("nuslerp")) == []
    assert found(stage("ties", against="two")) == [("models.two", "'two' is the base of ties, and one of its models")]
    assert found(stage("linear", against="two")) == []  # it may still give the tokenizer


def test_the_number_of_models() -> None:
    assert found(stage("slerp", against="base")) == [("method", "slerp has 2 models beside the base, needs exactly 1")]
    assert found(stage("model_stock", {"one": source()}, against="base")) == [
        ("method", "model_stock has 1 model beside the base, needs at least 2")
    ]
    assert found(stage("nuslerp", {"one": source()})) == [("method", "nuslerp has 1 model, needs exactly 2")]
    by_layers = stage("nuslerp", {name: source() for name in "abc"}, layers=({"a": "0-1"}, {"b": "0", "c": "1"}))
    assert found(by_layers) == []


def test_settings_that_the_method_does_not_read() -> None:
    blend = stage("linear", settings=BlendSettings(lambda_=Weighting.of(0.5), row_wise=True))
    assert found(blend) == [
        ("settings.lambda", "linear does not read `lambda`"),
        ("settings.row_wise", "linear does not read `row_wise`"),
    ]
    assert [clash.mend for clash in clashes(blend)] == ["take it out; what is read is `normalize`"] * 2
    nothing = stage("arcee_fusion", {"one": source()}, against="base", settings=BlendSettings(seed=3))
    assert list(clashes(nothing)) == [
        Clash(("settings", "seed"), "arcee_fusion does not read `seed`", "take it out; nothing is read")
    ]


def test_numbers_of_a_model_that_no_method_reads() -> None:
    blend = stage("slerp", {"one": source(weight=0.3, density=0.5)}, against="base")
    assert found(blend) == [
        ("models.one.weight", "slerp does not read `weight`"),
        ("models.one.density", "slerp does not read `density`"),
    ]


def test_rules_have_methods_and_settings_of_their_own() -> None:
    on = Selector.parse("attention", where="on")
    rules = (
        BlendRule(on=on, method="ties"),
        BlendRule(on=on, method="karcher", settings=BlendSettings(normalize=True)),
    )
    models = {"one": source(density=0.5), "two": source()}
    assert found(stage("linear", models, methods=rules)) == [
        ("against", "ties needs a base"),
        ("methods.1.settings.normalize", "karcher does not read `normalize`"),
    ]
    assert found(stage("linear", models)) == [("models.one.density", "linear does not read `density`")]
    assert found(stage("linear", models, methods=rules[1:])) == [
        ("methods.0.settings.normalize", "karcher does not read `normalize`"),
        ("models.one.density", "linear and karcher do not read `density`"),
    ]


def test_numbers_that_have_no_result() -> None:
    opposed = {"one": source(weight=0.5), "two": source(weight=-0.5)}
    for method in ("linear", "nuslerp", "multislerp"):
        assert found(stage(method, opposed)) == [("models", f"{method} divides by the sum of the weights, which is 0")]
    assert found(stage("linear", opposed, settings=BlendSettings(normalize=False))) == []
    thin = {"one": source(density=0.1), "two": source(density=0.5)}
    assert found(stage("della", thin, against="base")) == [
        ("models.one.epsilon", "chances from -0.05 to 0.25; they must be within 0 and 1")
    ]
    changing = BlendSource(density=Weighting.parse([0.1, 0.9], where="density"))
    assert found(stage("della", {"one": changing}, against="base")) == []  # known only tensor by tensor
