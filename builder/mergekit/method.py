"""The methods of mergekit: which parameters each reads, and what they are called here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULTS", "METHODS", "MISSING", "Method"]


class Method(NamedTuple):
    """What a method reads.

    Attributes:
        each: Parameters of each model -> our keys.
        all: Parameters of all models with a number for each tensor -> our keys.
        flags: Parameters with one truth value -> our keys; empty where another rule looks at it, or it changes nothing.
        single: The same with one number.
        base: Whether it starts from ``base_model``.
        least: Fewest models beside that.
        most: Most of them.
    """

    each: Mapping[str, str] = {}
    all: Mapping[str, str] = {}
    flags: Mapping[str, str] = {}
    single: Mapping[str, str] = {}
    base: Literal["must", "may", "not"] = "must"
    least: int = 1
    most: int = 1 << 16

    @property
    def shared(self) -> dict[str, str]:
        """Parameters that are not one model's."""
        return {**self.all, **self.flags, **self.single}


_WEIGHT: Final = {"weight": "weight"}
_TASK: Final = Method(
    each={"weight": "weight", "density": "density"},
    all={"lambda": "lambda"},
    flags={"normalize": "normalize", "rescale": "rescale", "int8_mask": ""},
)
_BREADCRUMBS: Final = _TASK._replace(each={**_TASK.each, "gamma": "gamma"})
_DELLA: Final = _TASK._replace(each={**_TASK.each, "epsilon": "epsilon"})
_TWO: Final = 2

METHODS: Final[Mapping[str, Method]] = {
    "linear": Method(each=_WEIGHT, flags={"normalize": "normalize"}, base="not"),
    "slerp": Method(all={"t": "t"}, most=1),
    "nuslerp": Method(
        each=_WEIGHT, flags={"nuslerp_flatten": "", "nuslerp_row_wise": ""}, base="may", least=_TWO, most=_TWO
    ),
    "multislerp": Method(each=_WEIGHT, flags={"normalize_weights": "normalize"}, single={"eps": ""}, base="may"),
    "karcher": Method(single={"max_iter": "steps", "tol": "tolerance"}, base="not"),
    "task_arithmetic": _TASK._replace(each=_WEIGHT, flags={"normalize": "normalize", "int8_mask": ""}),
    "ties": _TASK,
    "dare_linear": _TASK,
    "dare_ties": _TASK,
    "della": _DELLA,
    "della_linear": _DELLA,
    "breadcrumbs": _BREADCRUMBS,
    "breadcrumbs_ties": _BREADCRUMBS,
    "sce": Method(all={"select_topk": "select_topk"}, flags={"int8_mask": ""}),
    "model_stock": Method(flags={"filter_wise": "filter_wise"}, least=_TWO),
    "nearswap": Method(all={"t": "t"}, most=1),
    "arcee_fusion": Method(most=1),
    "passthrough": Method(each={"scale": "weight"}, base="not", most=1),
}

MISSING: Final = frozenset({"ram", "ramplus_tl"})
"""Methods that there are not here."""

DEFAULTS: Final[Mapping[str, float]] = {
    "density": 1.0,
    "epsilon": 0.15,
    "gamma": 0.01,
    "lambda": 1.0,
    "scale": 1.0,
    "select_topk": 1.0,
}
"""What a parameter is where nothing is said; ours are the same. Others have to be written."""
