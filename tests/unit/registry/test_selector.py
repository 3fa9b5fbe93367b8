from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidError
from registry.selector import COMPONENTS, Layers, Selector, is_component, nearest, spell_layers


def normal(value: object) -> object:
    return Selector.parse(value).to_json()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("attention", ["attention"]),
        ("model.layers.3.*", ["model.layers.3.*"]),
        ("lm_head.weight", ["lm_head.weight"]),
        ("norm.weight", ["norm.weight"]),
        ("norm.final", ["norm.final"]),
        ("h.0.attn.c_attn", ["h.0.attn.c_attn"]),
        (["mlp", "attention", "mlp"], ["attention", "mlp"]),
        ({"components": ["mlp", "attention"]}, ["attention", "mlp"]),
        ({"components": "mlp", "layers": 3}, [{"components": ["mlp"], "layers": "3"}]),
        ({"tensors": "*.bias", "exclude": "mlp"}, [{"tensors": ["*.bias"], "exclude": ["mlp"]}]),
        ({"tensors": ["head"]}, [{"tensors": ["head"]}]),
        ({"layers": "0-1"}, [{"layers": "0-1"}]),
        (
            ["*.bias", {"components": "mlp", "layers": "0"}, "mlp"],
            ["mlp", "*.bias", {"components": ["mlp"], "layers": "0"}],
        ),
    ],
)
def test_every_form_has_one_normal_form(value: object, expected: object) -> None:
    assert normal(value) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["attention", "mlp"], ["mlp", "attention"]),
        (["attention", "mlp"], {"components": ["mlp", "attention"]}),
        (["attention", ["mlp", "head"]], ["head", "mlp", "attention"]),
        ({"components": "mlp", "layers": "0-3,-1"}, {"layers": ["-1", 2, "0-1", 3], "components": ["mlp"]}),
        (
            [{"components": "mlp", "layers": "0"}, {"components": "attention", "layers": 0}],
            {"components": ["attention", "mlp"], "layers": "0"},
        ),
        ({"exclude": ["mlp", "head"]}, {"exclude": ["head", "mlp"]}),
    ],
)
def test_one_meaning_in_another_order_is_one_value(one: object, other: object) -> None:
    assert Selector.parse(one) == Selector.parse(other)
    assert hash(Selector.parse(one)) == hash(Selector.parse(other))


def test_everything_is_not_joined_with_names() -> None:
    assert normal([{"layers": "0"}, {"layers": "0", "components": "mlp"}]) == [
        {"components": ["mlp"], "layers": "0"},
        {"layers": "0"},
    ]


def test_a_selector_parses_to_itself_and_prints_its_normal_form() -> None:
    selector = Selector.parse({"components": "mlp", "layers": "1"})
    assert Selector.parse(selector) is selector
    assert str(selector) == '[{"components":["mlp"],"layers":"1"}]'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", "3"),
        (-1, "-1"),
        ("0-7,-1", "0-7,-1"),
        ("-1,0-7", "0-7,-1"),
        ("0,1,2", "0-2"),
        ("0-3,2-5,6", "0-6"),
        ("-4--1", "-4--1"),
        ("4--1", "4--1"),
        ("4--1,0", "0,4--1"),
        ("-1--1", "-1"),
        (" 0 , 2 ", "0,2"),
        ([0, "2-3"], "0,2-3"),
    ],
)
def test_layers_have_one_spelling(text: object, expected: str) -> None:
    assert str(Layers.parse(text, where="layers")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-1", {0, 1}), ("-1", {5}), ("-2--1,0", {0, 4, 5}), ("3--1", {3, 4, 5}), ("0-5", set(range(6)))],
)
def test_layers_resolve(text: str, expected: set[int]) -> None:
    assert Layers.parse(text, where="layers").resolve(6, where="x") == expected


@pytest.mark.parametrize("text", ["6", "-7", "0-6", "5--3", "-7--1", "0-999999"])
def test_layers_outside_the_network_are_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Layers.parse(text, where="layers").resolve(6, where="selector x")
    assert str(caught.value) == (
        f"layers {text} are not in a network of 6 layers\n"
        "  where: selector x\n"
        "  mend: say layers within 0-5, or from the end within -6--1"
    )


def test_layers_of_a_network_without_layers() -> None:
    with pytest.raises(InvalidError) as caught:
        Layers.parse("0", where="layers").resolve(0, where="x")
    assert caught.value.mend == "leave out `layers`; this network has none"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "atention",
            (
                "unknown component 'atention'\n  where: targets\n"
                f"  mend: did you mean attention? components are {', '.join(COMPONENTS)}"
            ),
        ),
        (
            {"components": ["mlp", "attention.querry"]},
            (
                "unknown component 'attention.querry'\n  where: targets.components\n"
                f"  mend: did you mean attention.query? components are {', '.join(COMPONENTS)}"
            ),
        ),
        (
            ["mlp", {"layer": 3}],
            (
                "unknown key 'layer'\n  where: targets[1]\n"
                "  mend: did you mean layers? keys are components, layers, tensors, exclude"
            ),
        ),
        (
            [],
            (
                "expected a selector, got an empty list\n  where: targets\n  mend: write a component name, "
                "a tensor glob, "
                "a list of them, or a table with components, layers, tensors, exclude"
            ),
        ),
        (
            {"exclude": {}},
            (
                "expected a selector, got an empty table\n  where: targets.exclude\n  mend: write a component name, "
                "a tensor glob, a list of them, or a table with components, layers, tensors, exclude"
            ),
        ),
        (
            7,
            (
                "expected a selector, got 7\n  where: targets\n  mend: write a component name, "
                "a tensor glob, "
                "a list of them, or a table with components, layers, tensors, exclude"
            ),
        ),
        (
            {"tensors": [1]},
            "expected a name or a list of names, got [1]\n  where: targets.tensors\n  mend: write one name or more",
        ),
        (
            {"layers": "3-1"},
            "layers 3-1 run backwards\n  where: targets.layers\n  mend: write 1-3, the lower layer first",
        ),
        (
            {"layers": "0:3"},
            "'0:3' is no layer and no range of layers\n  where: targets.layers\n  mend: write them as \"0-7,-1\"",
        ),
        ({"layers": True}, 'expected layers, got True\n  where: targets.layers\n  mend: write them as "0-7,-1"'),
        ({"layers": 1.5}, 'expected layers, got 1.5\n  where: targets.layers\n  mend: write them as "0-7,-1"'),
        (
            {"layers": []},
            'expected layers, got an empty list\n  where: targets.layers\n  mend: write them as "0-7,-1"',
        ),
    ],
)
def test_what_is_no_selector_is_refused(value: object, message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Selector.parse(value, where="targets")
    assert str(caught.value) == message


def test_deep_nesting_is_refused() -> None:
    value: object = "mlp"
    for _ in range(1000):
        value = {"exclude": value}
    with pytest.raises(InvalidError, match="selector nested deeper than 8"):
        Selector.parse(value)


def test_nearest_prefers_the_same_first_name() -> None:
    assert nearest("attention.quary", ["router", "attention.query", "mlp.up"]) == "attention.query"
    assert nearest("mpl", ["attention", "mlp"]) == "mlp"
    assert nearest("x", []) == ""


def test_spell_layers_joins_ranges() -> None:
    assert spell_layers([3, 0, 1, 2, 5, 5]) == "0-3,5"
    assert spell_layers([]) == ""


LAYERS = st.lists(
    st.one_of(
        st.integers(-9, 9),
        st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: "{}-{}".format(*sorted(pair))),
        st.tuples(st.integers(-9, -1), st.integers(-9, -1)).map(lambda pair: "{}-{}".format(*sorted(pair))),
        st.tuples(st.integers(0, 9), st.integers(-9, -1)).map(lambda pair: "{}-{}".format(*pair)),
    ),
    min_size=1,
    max_size=4,
)
NAMES = st.one_of(
    st.sampled_from(COMPONENTS), st.sampled_from(["*", "*.bias", "h.0.*", "lm_head.weight", "layers.[01].mlp.*"])
)
TENSORS = st.lists(st.one_of(NAMES, st.text("ab.*[head", min_size=1, max_size=6)), min_size=1, max_size=3)


def tables(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    keys = {
        "components": st.lists(st.sampled_from(COMPONENTS), min_size=1, max_size=3),
        "layers": LAYERS,
        "tensors": TENSORS,
        "exclude": inner,
    }
    return st.fixed_dictionaries({}, optional=keys).filter(bool)


SELECTORS = st.recursive(
    NAMES, lambda inner: st.one_of(st.lists(inner, min_size=1, max_size=3), tables(inner)), max_leaves=6
)


@given(SELECTORS)
def test_the_normal_form_reads_back_and_is_a_fixed_point(value: object) -> None:
    selector = Selector.parse(value)
    again = Selector.parse(selector.to_json())
    assert again == selector
    assert again.to_json() == selector.to_json()


@given(st.lists(SELECTORS, min_size=1, max_size=4), st.randoms())
def test_order_and_repetition_say_nothing(values: list[object], random: object) -> None:
    shuffled = [*values, values[0]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Selector.parse(shuffled) == Selector.parse(values)


@given(LAYERS)
def test_layers_mean_what_their_parts_mean(parts: list[object]) -> None:
    count = 20
    together = Layers.parse(parts, where="x")
    apart = [Layers.parse(part, where="x").resolve(count, where="x") for part in parts]
    assert together.resolve(count, where="x") == frozenset().union(*apart)
    assert Layers.parse(str(together), where="x") == together


@given(st.sampled_from(COMPONENTS))
def test_every_component_reads_as_one(name: str) -> None:
    assert is_component(name)
    assert Selector.parse(name).parts[0].components == (name,)


@given(LAYERS, st.integers(1, 12))
def test_layers_resolve_exactly_where_every_bound_is_inside(parts: list[object], count: int) -> None:
    layers = Layers.parse(parts, where="x")
    pairs = [tuple(bound + count if bound < 0 else bound for bound in pair) for pair in layers.ranges]
    if all(0 <= first <= last < count for first, last in pairs):
        wanted = {layer for first, last in pairs for layer in range(first, last + 1)}
        assert layers.resolve(count, where="x") == wanted
    else:
        with pytest.raises(InvalidError, match=rf"are not in a network of {count} layers"):
            layers.resolve(count, where="x")
