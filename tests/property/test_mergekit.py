"""A parameter of mergekit and the weighting that it becomes: the same number for every tensor of the result."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from builder.mergekit.translation import translate
from builder.weighting import Weighting
from registry.canonical import encode
from registry.components import Network
from registry.errors import InvalidError

PARTS = ("self_attn.q_proj.weight", "self_attn.o_proj.weight", "mlp.up_proj.weight", "odd.weight")
BEFORE, AFTER = ("model.embed_tokens.weight",), ("model.norm.weight", "lm_head.weight")
# Each is in some name within a layer: what fits nothing is an error here, and ignored by mergekit.
FILTERS = ("self_attn", "mlp", "proj", "odd", "weight", "layers", "*", None)
NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.5, 3.0])
VALUES = NUMBERS | st.lists(NUMBERS, min_size=1, max_size=4)
CONDITION = st.fixed_dictionaries({"filter": st.sampled_from(FILTERS), "value": VALUES})
CONDITIONS = st.lists(CONDITION, min_size=1, max_size=3)
SCOPE = st.none() | VALUES | CONDITION | CONDITIONS
COMPLETE = VALUES | CONDITIONS.map(lambda some: [*some, {"value": 0.75}])
LENGTHS = st.lists(st.integers(1, 3), min_size=3, max_size=3)


def at(setting: Any, name: str, depth: float) -> float | None:  # noqa: ANN401 - any form
    """mergekit's rule: the first condition whose filter is in the name; a gradient over the depth in the slice."""
    if isinstance(setting, dict):
        setting = [setting]
    if isinstance(setting, list) and isinstance(setting[0], dict):
        fitting = (one for one in setting if one.get("filter") in {None, "*"} or one["filter"] in name)
        found = next(fitting, None)
        return None if found is None else at(found["value"], name, depth)
    if not isinstance(setting, list):
        return cast("float | None", setting)
    position = depth * (len(setting) - 1)
    lower = int(position)
    upper, share = min(len(setting) - 1, lower + 1), position - lower
    return float((1 - share) * setting[lower] + share * setting[upper])


def first(name: str, depth: float, *scopes: object) -> float:
    """mergekit's rule for places: the nearest that says something."""
    return next(found for scope in scopes if (found := at(scope, name, depth)) is not None)


def resolve(weighting: object, layers: int) -> dict[str, float]:
    inside = [f"model.layers.{layer}.{part}" for layer in range(layers) for part in PARTS]
    return Weighting.parse(weighting, where="").resolve(Network.from_tensors((*BEFORE, *inside, *AFTER)))


def models(document: dict[str, Any]) -> dict[str, Any]:
    """The models of the one stage of a file; JSON is YAML, too."""
    manifest = cast("dict[str, Any]", translate(encode(document).decode(), "merge.yml").manifest)
    return cast("dict[str, Any]", manifest["stages"]["merged"]["models"])


def said(key: str, scope: object) -> dict[str, Any]:
    return {} if scope is None else {"parameters": {key: scope}}


@given(own=SCOPE, shared=COMPLETE, layers=st.integers(2, 5))
@settings(deadline=None)
def test_whole_models(own: object, shared: object, layers: int) -> None:
    document = {
        "merge_method": "linear",
        "models": [{"model": "a/x", **said("weight", own)}],
        "parameters": {"weight": shared, "normalize": False},  # whatever the weights, they are not divided by
    }
    found = resolve(models(document)["x"], layers)
    for name, number in found.items():
        depth = int(name.split(".")[2]) / (layers - 1) if "layers" in name else 0.0
        assert number == first(name, depth, own, shared), name


@given(
    scopes=st.lists(st.tuples(SCOPE, SCOPE), min_size=1, max_size=3),
    shared=COMPLETE,
    lengths=LENGTHS,
    two=st.booleans(),
)
@settings(deadline=None)
def test_slices(scopes: list[tuple[object, object]], shared: object, lengths: list[int], *, two: bool) -> None:
    names = ["y" if two and index == 1 else "x" for index in range(len(scopes))]
    document = {
        "merge_method": "passthrough",
        "slices": [
            {
                "sources": [{"model": f"a/{name}", "layer_range": [0, length], **said("scale", own)}],
                **said("scale", whole),
            }
            for name, length, (own, whole) in zip(names, lengths, scopes, strict=False)
        ],
        **said("scale", shared),
    }
    try:
        made = models(document)
    except InvalidError as error:  # what cannot be said is refused, never said in another way
        problems = {fault.problem for fault in error.faults}
        assert problems == {"it means other values for the embedding than for the head"}
        assume(False)  # noqa: FBT003 - hypothesis's own form
        return
    total, start = sum(lengths[: len(scopes)]), 0
    found = {name: resolve(weighting, total) for name, weighting in made.items()}
    for name, length, (own, whole) in zip(names, lengths, scopes, strict=False):
        for place in range(length):
            depth = place / (length - 1) if length > 1 else 1.0
            for tensor in (f"model.layers.{start + place}.{part}" for part in PARTS):
                assert found[name][tensor] == first(tensor, depth, own, whole, shared), tensor
        start += length
    for place, outside in ((0, BEFORE), (-1, AFTER)):
        for tensor in outside:
            assert found[names[place]][tensor] == first(tensor, 0.0, *scopes[place], shared), tensor
