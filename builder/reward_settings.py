"""Settings of rewards, which rate the answers that a model gives in training: every key's meaning, bounds, default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from builder.names import Name  # noqa: TC001 - the shapes are made from the fields' types
from builder.shapes import Number, Text
from builder.tables import Key
from registry.digest import Digest

__all__ = ["REWARDS", "REWARD_FILE", "ApprovedCode", "Reward", "RewardFunction", "RewardModel"]

REWARDS: Final = "rewards"
"""The folder that reward functions live in; of a request only what was approved is taken from it."""

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
REWARD_FILE: Final = rf"{REWARDS}/(?:{_SEGMENT}/)*{_SEGMENT}\.py"
"""Pattern of the path of a file of reward functions."""

RewardFile: TypeAlias = Annotated[
    str,
    Text(
        pattern=REWARD_FILE,
        expected=f"a Python file below {REWARDS}/",
        mend=f"put the file below {REWARDS}/, and write its path from the root of the repository",
        max_length=1024,
    ),
]
CodeDigest: TypeAlias = Annotated[
    Digest,
    Text(
        pattern="sha256:[0-9a-f]{64}",
        expected="sha256: and 64 lower-case hexadecimal digits",
        mend="copy it from the refusal of the request, once you have read the file",
        make=Digest.parse,
    ),
]
FunctionName: TypeAlias = Annotated[
    str, Text(pattern="[A-Za-z_][A-Za-z0-9_]*", expected="the name of a function", max_length=200)
]
Weight: TypeAlias = Annotated[
    float, Key("What its number is multiplied by in the sum of all rewards."), Number(minimum=-1e6, maximum=1e6)
]


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardFunction:
    """A function of this repository that rates answers."""

    file: Annotated[
        RewardFile,
        Key(f"Python file below `{REWARDS}/`, with all that the function needs; it cannot import its neighbours."),
    ]
    function: Annotated[
        FunctionName,
        Key("Its name: called with lists of prompts, completions and the rows' columns; gives a list of numbers."),
    ]
    weight: Weight = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModel:
    """A reward model that rates answers."""

    model: Annotated[Name, Key("A reward model: a stage of kind reward that gives a whole model.")]
    weight: Weight = 1.0


Reward: TypeAlias = RewardFunction | RewardModel


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovedCode:
    """Code that a request may bring, since somebody who may write to main has read it."""

    rewards: Annotated[
        tuple[CodeDigest, ...], Key(f"Digests of files below `{REWARDS}/`, as a refused request names them.")
    ] = ()
