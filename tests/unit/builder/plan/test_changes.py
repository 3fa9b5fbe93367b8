from __future__ import annotations

from typing import Any

from builder.address import Address
from builder.graph import Node
from builder.plan.changes import changed_keys, changed_values, command_change, say_value
from registry.lock import Lock, LockedStage

_NODE = Node(
    address=Address(variant="a", stage="pref"),
    kind="dpo",
    settings=None,  # type: ignore[arg-type] # not looked at
    edges=(),
    params=(("models/a/model.yaml", "stages.pref"), ("params.yaml", "recipes.dpo")),
)


def _locked(stage: Any, recipe: Any = 1, command: str = "varietal run a pref") -> LockedStage:  # noqa: ANN401 - any value
    lock = Lock.parse("schema: '2.0'\nstages: {pref: {cmd: x}}\n", where="x")
    parameters = {"models/a/model.yaml": {"stages.pref": stage}, "params.yaml": {"recipes.dpo": recipe}}
    return LockedStage(
        name="pref", command=command, dependencies={}, parameters=parameters, outputs=lock.stages["pref"].outputs
    )


def _reasons(before: object, now: object, *, recipe: object = 1) -> list[str]:
    values = {("models/a/model.yaml", "stages.pref"): now, ("params.yaml", "recipes.dpo"): recipe}
    return [one.reason for one in changed_values(_NODE, _locked(before), lambda file, key: values[file, key])]


def test_a_leaf_is_told_by_its_key_path() -> None:
    before = {"kind": "dpo", "train": {"beta": 0.1, "steps": 2}}
    now = {"kind": "dpo", "train": {"beta": 0.2, "steps": 2}}
    assert _reasons(before, now) == ["stages.pref.train.beta: 0.1 -> 0.2"]


def test_keys_that_come_and_go() -> None:
    assert _reasons({"train": {"beta": 0.1}}, {"train": {"steps": 4}}) == [
        "stages.pref.train.beta: 0.1 -> not set",
        "stages.pref.train.steps: not set -> 4",
    ]


def test_a_key_of_params_yaml_says_so() -> None:
    assert _reasons({}, {}, recipe=2) == ["params.yaml: recipes.dpo: 1 -> 2"]


def test_what_python_takes_for_equal_dvc_does_too() -> None:
    assert _reasons({"train": {"weight": 1}}, {"train": {"weight": 1.0}}) == []
    assert _reasons({"train": {"packing": True}}, {"train": {"packing": 1}}) == []


def test_lists_are_told_whole() -> None:
    assert _reasons({"targets": ["mlp"]}, {"targets": ["mlp", "attention"]}) == [
        "stages.pref.targets: [mlp] -> [mlp, attention]"
    ]


def test_many_differences_are_cut() -> None:
    found = _reasons({}, {f"k{number}": number for number in range(20)})
    assert len(found) == 13
    assert found[-1] == "stages.pref: 8 more differences"


def test_commands() -> None:
    assert [*command_change(_NODE, _locked({}))] == []
    (renamed,) = command_change(_NODE, _locked({}, command="varietal run b pref"))
    assert (renamed.reason, renamed.certain) == ("renamed from b:pref", True)
    (other,) = command_change(_NODE, _locked({}, command="rm -rf /"))
    assert other.reason == "it was built by `rm -rf /`"


def test_values_as_a_manifest_has_them() -> None:
    assert [say_value(one) for one in (True, None, 0.1, "", "a\n b", [1, {"a": "b"}])] == [
        *("true", "null", "0.1", '""', "a b", "[1, {a: b}]")
    ]
    assert len(say_value("x" * 100)) == 60


def test_documents() -> None:
    assert [*changed_keys("", {"base": "a", "stages": {"x": {"kind": "cast"}}}, {"base": "b", "stages": {}})] == [
        "base: a -> b",
        "stages.x: {kind: cast} -> not set",
    ]
    assert [*changed_keys("", "broken", {"base": "b"})] == [": broken -> {base: b}"]
