"""What a PEFT configuration says on each module of a LoRA adapter; what cannot be folded is refused by name."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.canonical import JSON, decode
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["LoraConfig", "read_config"]

# What does not change the sum: where the adapter came from, how it was trained.
_SILENT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "velora_config",
    }
)
_READ = frozenset(
    {
        "alpha_pattern",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    }
)
_REASONS: Mapping[str, str] = {
    "alora_invocation_tokens": "it acts on some tokens only, so no single weight holds it",
    "arrow_config": "it chooses among adapters at run time",
    "bias": "it changes biases too",
    "kasa_config": "its base was cut down before training",
    "layer_replication": "it needs a model with other layers",
    "lora_bias": "its factors have biases",
    "modules_to_save": "it replaces whole modules",
    "monteclora_config": "it draws its factors at random",
    "target_parameters": "it changes stacked expert weights",
    "trainable_token_indices": "it replaces rows of the embedding",
    "use_bdlora": "its factors are block-diagonal",
    "use_dora": "DoRA scales the rows of the sum, it is no plain addition",
    "use_qalora": "it pools its inputs by groups",
}
# Starts that leave the base as it was; all others move a part of the base into the adapter.
_PLAIN_STARTS: tuple[JSON, ...] = (True, False, None, "gaussian", "eva", "orthogonal")

_AGAIN = "save the adapter again"

# What a pattern may have and still be matched in no time, whatever it says: no repeat of a repeat, few of each.
_MAX_PATTERN_CHARACTERS = 300
_MAX_MODULE_CHARACTERS = 200
_MAX_REPEATS = 2
_MAX_GROUPS = 3
_REPEAT = re.compile(r"[*+{]|(?<!\()\?")
_NESTED = re.compile(r"\)\s*[*+{]|\\[1-9]")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """A configuration that can be folded.

    Attributes:
        path: The file.
        values: Its value, as it is.
    """

    path: Path
    values: Mapping[str, JSON]

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the weights lie as ``[in, out]``; PEFT's word for the last module that it wrapped."""
        return self.values.get("fan_in_fan_out") is True

    def targets(self, module: str) -> bool:
        """Whether ``target_modules`` names a module; an expression in place of a list is not looked at."""
        names = self.values.get("target_modules")
        return not isinstance(names, list) or any(module == name or module.endswith(f".{name}") for name in names)

    def rank(self, module: str) -> int:
        """Rank of a module's factors.

        Raises:
            InvalidError: It is no whole number from 1, or two patterns disagree.
        """
        value = self._setting("r", "rank_pattern", module)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._refused(f"rank {value!r} of {module} is no whole number from 1", _AGAIN)
        return value

    def scale(self, module: str) -> float:
        """Factor of a module's product: alpha / rank, or alpha / sqrt(rank) when it is rank-stabilised; no unit.

        Raises:
            InvalidError: Alpha is no number, or two patterns disagree.
        """
        alpha, rank = self._setting("lora_alpha", "alpha_pattern", module), self.rank(module)
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            raise self._refused(f"alpha {alpha!r} of {module} is no number", _AGAIN)
        return alpha / math.sqrt(rank) if self.values.get("use_rslora") is True else alpha / rank

    def _setting(self, key: str, patterns: str, module: str) -> JSON:
        """A number of the configuration, or what the one pattern that fits the module says instead."""
        table = self.values.get(patterns) or {}
        if not isinstance(table, dict):
            raise self._refused(f"{patterns} is not a table", _AGAIN)
        fitting = {pattern: value for pattern, value in table.items() if self._fits(pattern, module)}
        if len(set(map(repr, fitting.values()))) > 1:
            both = " and ".join(map(repr, fitting))
            mend = "let patterns not overlap: PEFT takes the first one, and sorts them when it saves"
            raise self._refused(f"{patterns} gives {module} several values, by {both}", mend)
        return next(iter(fitting.values())) if fitting else self.values.get(key)

    def _fits(self, pattern: str, module: str) -> bool:
        """PEFT's rule: the pattern is a regular expression on the end of the module's name."""
        if module == pattern or module.endswith(f".{pattern}"):
            return True
        if not _is_harmless(pattern) or len(module) > _MAX_MODULE_CHARACTERS:
            raise self._refused(f"pattern {pattern!r} is too involved to match safely", "write module names instead")
        try:
            return re.match(rf"(.*\.)?({pattern})$", module) is not None
        except re.error as error:
            raise self._refused(f"pattern {pattern!r} is no regular expression: {error}", _AGAIN) from error

    def _refused(self, what: str, mend: str) -> InvalidError:
        return _refused(self.path, what, mend)


def read_config(path: Path) -> LoraConfig:
    """Read ``adapter_config.json``.

    Raises:
        InvalidError: It is no LoRA configuration, or says what cannot be folded.
    """
    config = decode(path.read_bytes(), where=str(path))
    if not isinstance(config, dict):
        raise InvalidError("not a table", where=str(path), mend="save the adapter again")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise _refused(path, f"adapters of type {kind} cannot be folded yet", "fold LoRA adapters only")
    for key in sorted(config.keys() - _SILENT - _READ):
        value = config[key]
        if value and not (key == "bias" and value == "none"):
            reason = _REASONS.get(key, "this tool does not know what it means")
            raise _refused(path, f"{key} = {value!r} cannot be folded yet: {reason}", "train a plain LoRA adapter")
    start = config.get("init_lora_weights", True)
    if not any(start is plain or (isinstance(start, str) and start == plain) for plain in _PLAIN_STARTS):
        raise _refused(
            path,
            f"init_lora_weights = {start!r} cannot be folded yet: it changed its base when training began",
            "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA adapter",
        )
    return LoraConfig(path=path, values=config)


def _is_harmless(pattern: str) -> bool:
    """Whether no name can make the matching of a pattern take long."""
    few = len(_REPEAT.findall(pattern)) <= _MAX_REPEATS and pattern.count("(") <= _MAX_GROUPS
    return few and len(pattern) <= _MAX_PATTERN_CHARACTERS and _NESTED.search(pattern) is None


def _refused(path: Path, what: str, mend: str) -> InvalidError:
    return InvalidError(what, where=str(path), mend=mend)
