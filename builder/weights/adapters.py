"""PEFT LoRA adapters, read strictly: each tensor must have its place in the configuration and in the base.

PEFT itself only warns, or says nothing, where a factor is missing, a module is unknown or the base is another one; here
that is an error that names the tensor. What cannot be folded exactly as PEFT defines it is refused by name.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from builder.weights.folder import plain_file
from builder.weights.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from builder.weights.stream import FLOATS, LoadedTerm, Stored, Term
from registry.canonical import JSON, decode
from registry.errors import InvalidError
from registry.provenance import Provenance
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.weights.folder import ModelFolder

__all__ = ["Adapter", "LowRank", "read_adapter"]

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:(?P<factor>[AB])\.weight|embedding_(?P<row>[AB]))")
_MATRIX = 2

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

# transformers' Conv1D keeps its weight as [in, out]; for a square one only its name tells.
_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_CONV1D_MODULES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})

_HEADS = frozenset({"lm_head", "embed_out"})

_AGAIN = "save the adapter again"
_RIGHT_MODEL = "fold it into the model that it was trained on"

# What a pattern may have and still be matched in no time, whatever it says: no repeat of a repeat, few of each.
_MAX_PATTERN_CHARACTERS = 300
_MAX_MODULE_CHARACTERS = 200
_MAX_REPEATS = 2
_MAX_GROUPS = 3
_REPEAT = re.compile(r"[*+{]|(?<!\()\?")
_NESTED = re.compile(r"\)\s*[*+{]|\\[1-9]")


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank:
    """``scale * up @ down``, or its transpose: what LoRA adds to one weight.

    Attributes:
        down: Factor A, shape ``[rank, in]``.
        up: Factor B, shape ``[out, rank]``.
        transposed: The weight is ``[in, out]``: an embedding, or transformers' Conv1D.
        scale: Of the product; no unit.
    """

    down: Stored
    up: Stored
    transposed: bool
    scale: float

    def load(self) -> LoadedTerm:
        """Read both factors into float64.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        down, up = _load_factor(self.down), _load_factor(self.up)
        left, right = (down.T, up.T) if self.transposed else (up, down)
        return _Factors(left=left.contiguous().mul_(self.scale), right=right.contiguous())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Factors:
    left: torch.Tensor
    right: torch.Tensor

    def add(self, total: torch.Tensor, start: int, stop: int) -> None:
        total.addmm_(self.left[start:stop], self.right)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """Both factors of one module."""

    module: str
    down: Stored
    up: Stored
    embedding: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A LoRA adapter whose configuration and tensors belong together.

    Attributes:
        path: Its folder.
        config: The value of ``adapter_config.json``.
        provenance: Of its weights file; ``None`` for one that was made elsewhere.
        pairs: The factors, sorted by module.
    """

    path: Path
    config: Mapping[str, JSON]
    provenance: Provenance | None
    pairs: tuple[_Pair, ...]

    def terms(self, model: ModelFolder, *, weight: float = 1.0) -> dict[str, Term]:
        """What the adapter adds to each weight of ``model``: tensor name -> term.

        Args:
            model: The base, or a descendant with equal shapes.
            weight: Factor of the whole adapter; no unit.

        Raises:
            InvalidError: A module that the model has not, other shapes, a tied embedding, a weight that is no float.
        """
        site = _Site.of(self, model)
        terms: dict[str, Term] = {}
        for pair in self.pairs:
            name = site.name_of(pair)
            if name in terms:
                problem = f"and another one are both on {name}"
                raise _bad_tensor(self.path, pair.down.info.name, problem, "save the adapter again")
            terms[name] = site.term(pair, name, weight)
        return terms


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT folder: headers and configuration, no weights.

    Raises:
        NotFoundError: One of its two files is missing.
        InvalidError: The configuration says what cannot be folded, or a tensor does not fit it.
    """
    config = _read_config(plain_file(folder, ADAPTER_CONFIG))
    path = plain_file(folder, ADAPTER_WEIGHTS)
    header = read_header(path)
    provenance = Provenance.from_metadata(header.metadata, where=str(path))
    factors: dict[str, dict[str, Stored]] = {}
    embeddings: set[str] = set()
    for info in header.tensors.values():
        match = _TENSOR.fullmatch(info.name)
        if match is None:
            raise _bad_tensor(folder, info.name, "is no factor of a LoRA pair", "save the adapter without base weights")
        if len(info.shape) != _MATRIX or 0 in info.shape or info.dtype not in FLOATS:
            shape = f"{info.dtype} {list(info.shape)}"
            raise _bad_tensor(folder, info.name, f"is {shape}, no matrix of floats", "save the adapter again, gathered")
        factors.setdefault(match["module"], {})[match["factor"] or match["row"]] = Stored(path=path, info=info)
        if match["row"]:
            embeddings.add(match["module"])
    pairs = tuple(_pair(folder, module, factors[module], module in embeddings) for module in sorted(factors))
    if not pairs:
        raise InvalidError("the adapter has no tensors", where=str(path), mend="save the adapter again")
    adapter = Adapter(path=folder, config=config, provenance=provenance, pairs=pairs)
    for pair in pairs:
        _check_pair(adapter, pair)
    return adapter


def _read_config(path: Path) -> Mapping[str, JSON]:
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
    return config


def _pair(folder: Path, module: str, factors: Mapping[str, Stored], embedding: bool) -> _Pair:  # noqa: FBT001 - private
    if missing := {"A", "B"} - factors.keys():
        (there,) = factors.values()
        problem = f"has no factor {missing.pop()} beside it"
        raise _bad_tensor(folder, there.info.name, problem, "save the adapter again; it is incomplete")
    if len({"lora_embedding" in stored.info.name for stored in factors.values()}) != 1:
        name = factors["A"].info.name
        raise _bad_tensor(folder, name, "is beside a factor of another form", "save the adapter again")
    return _Pair(module=module, down=factors["A"], up=factors["B"], embedding=embedding)


def _check_pair(adapter: Adapter, pair: _Pair) -> None:
    """The factors chain, with the rank that the configuration says, on a module that it targets."""
    name, rank = pair.down.info.name, _rank(adapter, pair.module)
    found = (pair.down.info.shape[0], pair.up.info.shape[1])
    if found != (rank, rank):
        problem = f"has rank {found[0]} (its other factor {found[1]}), the configuration says {rank}"
        raise _bad_tensor(adapter.path, name, problem, "save weights and configuration together")
    targets = adapter.config.get("target_modules")
    if isinstance(targets, list) and not any(_is_target(pair.module, target) for target in targets):
        problem = f"is on {pair.module}, which target_modules does not name"
        raise _bad_tensor(adapter.path, name, problem, "save weights and configuration together")
    _scale(adapter, pair.module)


def _is_target(module: str, target: JSON) -> bool:
    return module == target or module.endswith(f".{target}")


def _rank(adapter: Adapter, module: str) -> int:
    value = _setting(adapter, "r", "rank_pattern", module)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused(adapter.path / ADAPTER_CONFIG, f"rank {value!r} of {module} is no whole number from 1", _AGAIN)
    return value


def _scale(adapter: Adapter, module: str) -> float:
    """LoRA's factor of the product: alpha / rank, or alpha / sqrt(rank) when it is rank-stabilised."""
    alpha, rank = _setting(adapter, "lora_alpha", "alpha_pattern", module), _rank(adapter, module)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise _refused(adapter.path / ADAPTER_CONFIG, f"alpha {alpha!r} of {module} is no number", _AGAIN)
    return alpha / math.sqrt(rank) if adapter.config.get("use_rslora") is True else alpha / rank


def _setting(adapter: Adapter, key: str, patterns: str, module: str) -> JSON:
    """A number of the configuration, or what the one pattern that fits the module says instead."""
    path = adapter.path / ADAPTER_CONFIG
    table = adapter.config.get(patterns) or {}
    if not isinstance(table, dict):
        raise _refused(path, f"{patterns} is not a table", _AGAIN)
    fitting = {pattern: value for pattern, value in table.items() if _fits(path, pattern, module)}
    if len(set(map(repr, fitting.values()))) > 1:
        both = " and ".join(map(repr, fitting))
        mend = "let patterns not overlap: PEFT takes the first one, and sorts them when it saves"
        raise _refused(path, f"{patterns} gives {module} several values, by {both}", mend)
    return next(iter(fitting.values())) if fitting else adapter.config.get(key)


def _fits(path: Path, pattern: str, module: str) -> bool:
    """PEFT's rule: the pattern is a regular expression on the end of the module's name."""
    if module == pattern or module.endswith(f".{pattern}"):
        return True
    if not _is_harmless(pattern) or len(module) > _MAX_MODULE_CHARACTERS:
        raise _refused(path, f"pattern {pattern!r} is too involved to match safely", "write module names instead")
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise _refused(path, f"pattern {pattern!r} is no regular expression: {error}", _AGAIN) from error


def _is_harmless(pattern: str) -> bool:
    """Whether no name can make the matching of a pattern take long."""
    few = len(_REPEAT.findall(pattern)) <= _MAX_REPEATS and pattern.count("(") <= _MAX_GROUPS
    return few and len(pattern) <= _MAX_PATTERN_CHARACTERS and _NESTED.search(pattern) is None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Site:
    """A model that an adapter's pairs are to go into.

    Attributes:
        tied: The embedding is the head, too: no head lies on disk, and the configuration does not say otherwise.
        conv1d: A family with transformers' Conv1D.
    """

    adapter: Adapter
    model: ModelFolder
    tied: bool
    conv1d: bool

    @classmethod
    def of(cls, adapter: Adapter, model: ModelFolder) -> _Site:
        config = model.config()
        headless = all(place.component != "head" for place in model.network.places.values())
        tied = headless and config.get("tie_word_embeddings") is not False
        return cls(adapter=adapter, model=model, tied=tied, conv1d=config.get("model_type") in _CONV1D_MODELS)

    def name_of(self, pair: _Pair) -> str:
        """Name on disk of a module's weight, which may be stored with or without the outermost prefix."""
        whole = f"{pair.module}.weight"
        _, _, inner = whole.partition(".")
        for name in (whole, inner, f"model.{whole}", f"transformer.{whole}"):
            if name in self.model.tensors:
                return name
        if self.tied and pair.module.rpartition(".")[2] in _HEADS:
            raise self._tied_error(pair)
        problem = f"is on {pair.module}, which the model has not"
        raise _bad_tensor(self.adapter.path, pair.down.info.name, problem, _RIGHT_MODEL)

    def term(self, pair: _Pair, name: str, weight: float) -> LowRank:
        """The term of a pair, its shapes checked against the weight."""
        info = self.model.tensors[name].info
        if self.tied and self.model.network.component_of(name) == "embedding.token":
            raise self._tied_error(pair)
        shape = (pair.up.info.shape[0], pair.down.info.shape[1])
        transposed = self._is_transposed(pair, info.shape)
        if info.dtype not in FLOATS or info.shape != (shape[::-1] if transposed else shape):
            problem = f"and its other factor make {list(shape)}; {name} is {info.dtype} {list(info.shape)}"
            raise _bad_tensor(self.adapter.path, pair.down.info.name, problem, _RIGHT_MODEL)
        scale = weight * _scale(self.adapter, pair.module)
        return LowRank(down=pair.down, up=pair.up, transposed=transposed, scale=scale)

    def _is_transposed(self, pair: _Pair, shape: tuple[int, ...]) -> bool:
        """The shape tells. For a square weight the family does; PEFT's flag speaks for the last module wrapped only."""
        rows, columns = pair.up.info.shape[0], pair.down.info.shape[1]
        if pair.embedding or rows != columns:
            return pair.embedding or shape == (columns, rows)
        if self.conv1d:
            return pair.module.rpartition(".")[2] in _CONV1D_MODULES
        return self.adapter.config.get("fan_in_fan_out") is True

    def _tied_error(self, pair: _Pair) -> InvalidError:
        problem = "is on an embedding that is tied to the head: the sum would change both"
        mend = "train the adapter on other modules, or untie the model first"
        return _bad_tensor(self.adapter.path, pair.down.info.name, problem, mend)


def _load_factor(stored: Stored) -> torch.Tensor:
    values = stored.load().to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise InvalidError(
            f"tensor {stored.info.name!r} holds NaN or an infinity",
            where=str(stored.path),
            mend="train the adapter again; its training went wrong",
        )
    return values


def _refused(path: Path, what: str, mend: str) -> InvalidError:
    return InvalidError(what, where=str(path), mend=mend)


def _bad_tensor(folder: Path, name: str, problem: str, mend: str) -> InvalidError:
    return InvalidError(f"tensor {name!r} {problem}", where=str(folder / ADAPTER_WEIGHTS), mend=mend)
