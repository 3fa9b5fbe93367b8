"""What a PEFT configuration says on each module of an adapter; what no one here understands is refused by name."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.canonical import JSON, decode
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

__all__ = ["PeftConfig", "read_config"]

# What does not change the result of any type: where the adapter came from, how it was put on and trained.
_SILENT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",  # its tensors speak for themselves
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)

_AGAIN = "save the adapter again"
_TOO_BIG = 2**63  # whole numbers from here on are none for torch

# What a pattern may have and still be matched in no time, whatever it says: no repeat of a repeat, few of each.
_MAX_PATTERN_CHARACTERS = 300
_MAX_MODULE_CHARACTERS = 200
_MAX_REPEATS = 2
_MAX_GROUPS = 3
_REPEAT = re.compile(r"[*+{]|(?<!\()\?")
_NESTED = re.compile(r"\)\s*[*+{]|\\[1-9]|\(\?[a-zA-Z-]")  # flags could hide a repeat behind a comment


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftConfig:
    """A configuration of one adapter.

    Attributes:
        path: The file.
        values: Its value, as it is.
    """

    path: Path
    values: Mapping[str, JSON]
    # Pattern -> what matches it: ``re`` itself remembers 512, and of more than those it compiles each for every module.
    _compiled: dict[str, re.Pattern[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def type(self) -> str:
        """PEFT's name of the adapter's type, such as ``LORA``."""
        return str(self.values.get("peft_type"))

    def check_keys(self, read: Collection[str], silent: Collection[str], reasons: Mapping[str, str]) -> None:
        """Refuse what is set and not understood.

        Args:
            read: Keys whose values are looked at.
            silent: Keys that do not change the result.
            reasons: Key -> why an adapter with it cannot be used.

        Raises:
            InvalidError: Such a key is set.
        """
        for key in sorted(self.values.keys() - _SILENT - set(read) - set(silent)):
            value = self.values[key]
            if value and not (key == "bias" and value == "none"):
                reason = reasons.get(key, "this tool does not know what it means")
                raise self.refused(
                    f"{key} = {value!r} cannot be folded: {reason}", f"train a plain {self.type} adapter"
                )

    def check_needed(self, needed: Mapping[str, str]) -> None:
        """Refuse where something that is needed was left out.

        Args:
            needed: Key -> why an adapter where it is not true cannot be used.

        Raises:
            InvalidError: Such a key is not true.
        """
        for key, reason in sorted(needed.items()):
            if self.values.get(key) is not True:
                raise self.refused(
                    f"{key} = {self.values.get(key)!r} cannot be folded: {reason}",
                    f"save it from PEFT with {key} = true",
                )

    def targets(self, module: str) -> bool:
        """Whether ``target_modules`` names a module; an expression in place of a list is not looked at."""
        names = self.values.get("target_modules")
        return not isinstance(names, list) or any(module == name or module.endswith(f".{name}") for name in names)

    def saves(self, module: str) -> bool:
        """Whether ``modules_to_save`` names a module or one that it is in.

        PEFT compares the ends of names, whole words or not: ``norm`` means ``input_layernorm``, too.
        """
        names = self.values.get("modules_to_save")
        words = [name for name in names if isinstance(name, str) and name] if isinstance(names, list) else []
        parts = module.split(".")
        around = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
        return any(one.endswith(word) for one in around for word in words)

    def parameters(self, module: str) -> tuple[str, ...]:
        """Parameters that ``target_parameters`` names, as they would be called in a module; sorted."""
        names = self.values.get("target_parameters")
        words = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        leaves = {(word.rpartition(".")[2], word) for word in words}
        return tuple(sorted({leaf for leaf, word in leaves if f".{module}.{leaf}".endswith(f".{word}")}))

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A truth value.

        Raises:
            InvalidError: It is none.
        """
        value = self.values.get(key, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refused(f"{key} = {value!r} is neither true nor false", _AGAIN)
        return value

    def number(self, key: str, module: str = "", *, patterns: str = "", default: float | None = None) -> float:
        """A finite number.

        Args:
            key: Its key.
            module: The module that it is asked for.
            patterns: Key of a table of patterns on module names whose values go before.
            default: What holds where the key is not there.

        Raises:
            InvalidError: It is no number, or two patterns disagree.
        """
        value = self._setting(key, patterns, module) if patterns else self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
            raise self.refused(f"{key} {value!r}{f' of {module}' if module else ''} is no number", _AGAIN)
        return value if abs(value) < _TOO_BIG else float(value)

    def count(self, key: str, module: str = "", *, patterns: str = "", default: int | None = None) -> int:
        """A whole number from 1.

        Raises:
            InvalidError: It is none, or two patterns disagree.
        """
        value = self._setting(key, patterns, module) if patterns else self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            place = f" of {module}" if module else ""
            raise self.refused(f"{key} {value!r}{place} is no whole number from 1", _AGAIN)
        return value

    def seed(self, key: str, *, default: int) -> int:
        """A seed of a random generator, as torch takes it: a whole number that fits 64 bits.

        Raises:
            InvalidError: It is none.
        """
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**64:
            raise self.refused(f"{key} = {value!r} is no seed", _AGAIN)
        return value

    def choice(self, key: str, choices: Collection[str], *, default: str = "") -> str:
        """One of a few words.

        Raises:
            InvalidError: It is another one.
        """
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, str) or value not in choices:
            known = " or ".join(sorted(choices))
            raise self.refused(f"{key} = {value!r} is not known", f"train with {key} {known}")
        return value

    def refused(self, what: str, mend: str) -> InvalidError:
        """An error on this file."""
        return InvalidError(what, where=str(self.path), mend=mend)

    def _setting(self, key: str, patterns: str, module: str) -> JSON:
        """A value of the configuration, or what the one pattern that fits the module says instead."""
        table = self.values.get(patterns) or {}
        if not isinstance(table, dict):
            raise self.refused(f"{patterns} is not a table", _AGAIN)
        fitting = {pattern: value for pattern, value in table.items() if self._fits(pattern, module)}
        if len(set(map(repr, fitting.values()))) > 1:
            both = " and ".join(map(repr, fitting))
            mend = "let patterns not overlap: PEFT takes the first one, and sorts them when it saves"
            raise self.refused(f"{patterns} gives {module} several values, by {both}", mend)
        return next(iter(fitting.values())) if fitting else self.values.get(key)

    def _fits(self, pattern: str, module: str) -> bool:
        """PEFT's rule: the pattern is a regular expression on the end of the module's name."""
        if module == pattern or module.endswith(f".{pattern}"):
            return True
        if len(module) > _MAX_MODULE_CHARACTERS:
            raise self._involved(pattern)
        return (self._compiled.get(pattern) or self._compile(pattern)).match(module) is not None

    def _compile(self, pattern: str) -> re.Pattern[str]:
        if not _is_harmless(pattern):
            raise self._involved(pattern)
        try:
            compiled = self._compiled[pattern] = re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise self.refused(f"pattern {pattern!r} is no regular expression: {error}", _AGAIN) from error
        return compiled

    def _involved(self, pattern: str) -> InvalidError:
        return self.refused(f"pattern {pattern!r} is too involved to match safely", "write module names instead")


def read_config(path: Path) -> PeftConfig:
    """Read ``adapter_config.json``.

    Raises:
        InvalidError: It is not a table.
    """
    config = decode(path.read_bytes(), where=str(path))
    if not isinstance(config, dict):
        raise InvalidError("not a table", where=str(path), mend=_AGAIN)
    return PeftConfig(path=path, values=config)


def _is_harmless(pattern: str) -> bool:
    """Whether no name can make the matching of a pattern take long."""
    few = len(_REPEAT.findall(pattern)) <= _MAX_REPEATS and pattern.count("(") <= _MAX_GROUPS
    return few and len(pattern) <= _MAX_PATTERN_CHARACTERS and _NESTED.search(pattern) is None
