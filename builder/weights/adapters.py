"""PEFT adapters, read strictly: each tensor must have its place in the configuration and in the base.

PEFT itself only warns, or says nothing, where a factor is missing, a module is unknown or the base is another one; here
that is an error that names the tensor. What cannot be folded exactly as PEFT defines it is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.weights.dtypes import FLOATS
from builder.weights.folder import plain_file
from builder.weights.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from builder.weights.method import Method, method_of
from builder.weights.peft_config import PeftConfig, read_config
from builder.weights.stream import Stored
from registry.errors import InvalidError
from registry.provenance import Provenance
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["HEADS", "WRAPPER", "Adapter", "Part", "bad_tensor", "read_adapter"]

HEADS = frozenset({"lm_head", "embed_out"})
"""What models call their heads."""

_PREFIXES = ("base_model.model.", "base_model.")
WRAPPER = ".base_layer"
"""Stands in the names of tensors that PEFT has wrapped."""

_TOKENS = ("token_adapter.trainable_tokens_delta", "trainable_tokens_delta")
# With `bias: all` PEFT also saves the biases of modules to save under what they are in the wrapper.
_WRAPPED = (".original_module.", ".modules_to_save.")

_AGAIN = "save the adapter again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The tensors of one adapted module, by leaf."""

    module: str
    tensors: Mapping[str, Stored]

    @property
    def first(self) -> Stored:
        """The one to name in errors."""
        return self.tensors[min(self.tensors)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """An adapter whose configuration and tensors belong together.

    Attributes:
        path: Its folder.
        config: What it says on each module.
        method: What its type means.
        provenance: Of its weights file; ``None`` for one that was made elsewhere.
        parts: The adapted modules, by name.
        shared: Tensors that all of them share.
        tokens: Embedding module -> new rows of chosen tokens.
        replaced: Parameter, such as ``lm_head.weight`` -> what takes its place.
        copies: Parameter -> what the model must have there already; PEFT may save embeddings with an adapter on them.
    """

    path: Path
    config: PeftConfig
    method: Method
    provenance: Provenance | None
    parts: tuple[Part, ...]
    shared: Mapping[str, Stored]
    tokens: Mapping[str, Stored]
    replaced: Mapping[str, Stored]
    copies: Mapping[str, Stored]

    @property
    def tensors(self) -> tuple[Stored, ...]:
        """Every tensor of the adapter, by name."""
        every = [stored for part in self.parts for stored in part.tensors.values()]
        every += [*self.shared.values(), *self.tokens.values(), *self.replaced.values(), *self.copies.values()]
        return tuple(sorted(every, key=lambda stored: stored.info.name))


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT folder: headers and configuration, no weights.

    Raises:
        NotFoundError: One of its two files is missing.
        InvalidError: The configuration says what cannot be folded, or a tensor does not fit it.
    """
    config = read_config(plain_file(folder, ADAPTER_CONFIG))
    method = method_of(config)
    config.check_keys({*method.read, *method.needed, "bias", "trainable_token_indices"}, method.silent, method.reasons)
    config.check_needed(method.needed)
    path = plain_file(folder, ADAPTER_WEIGHTS)
    header = read_header(path)
    sorter = _Sorter(folder=folder, config=config, method=method)
    for info in header.tensors.values():
        if 0 in info.shape and not method.prunes:
            problem = f"is {info.dtype} {list(info.shape)}, which holds nothing"
            raise bad_tensor(folder, info.name, problem, "save the adapter again, gathered")
        sorter.take(Stored(path=path, info=info))
    if not header.tensors:
        raise InvalidError("the adapter has no tensors", where=str(path), mend=_AGAIN)
    if not (sorter.parts or sorter.tokens or sorter.replaced):
        raise InvalidError("the adapter has no tensor of any module", where=str(path), mend=_AGAIN)
    return Adapter(
        path=folder,
        config=config,
        method=method,
        provenance=Provenance.from_metadata(header.metadata, where=str(path)),
        parts=tuple(Part(module=module, tensors=sorter.parts[module]) for module in sorted(sorter.parts)),
        shared=sorter.shared,
        tokens=sorter.tokens,
        replaced=sorter.replaced,
        copies=sorter.copies,
    )


class _Sorter:
    """Puts each tensor of an adapter where it belongs."""

    def __init__(self, *, folder: Path, config: PeftConfig, method: Method) -> None:
        self._folder = folder
        self._config = config
        self._method = method
        self.parts: dict[str, dict[str, Stored]] = {}
        self.shared: dict[str, Stored] = {}
        self.tokens: dict[str, Stored] = {}
        self.replaced: dict[str, Stored] = {}
        self.copies: dict[str, Stored] = {}

    def take(self, stored: Stored) -> None:
        """Sort one tensor in.

        Raises:
            InvalidError: It has no place, or the configuration does not speak of it.
        """
        name = _plain(stored.info.name)
        if name.partition(".")[0] in self._method.shared:
            self.shared[name] = stored
            return
        module, leaf = _split(name, (*self._method.leaves, *_TOKENS))
        if leaf in _TOKENS:
            self._check_floats(stored)
            self._put(self.tokens, module, stored)
        elif leaf:
            self._take_part(module, leaf, stored)
        else:
            self._take_parameter(name.replace(WRAPPER, ""), stored)

    def _take_part(self, module: str, leaf: str, stored: Stored) -> None:
        if leaf not in self._method.indices:
            self._check_floats(stored)
        named = module.replace(WRAPPER, "")
        if not self._config.targets(named) and not self._config.parameters(named) and not self._is_tied_head(named):
            raise self._not_named(named, stored)
        self._put(self.parts.setdefault(module, {}), leaf, stored)

    def _take_parameter(self, name: str, stored: Stored) -> None:
        """A whole parameter: of a module to save, a trained bias, or an embedding that PEFT saves with its adapter."""
        path, _, parameter = name.rpartition(".")
        before, _, word = path.rpartition(".")
        own = word in self._method.saved
        module = before if own else path
        biased = parameter == "bias" and self._config.values.get("bias", "none") != "none"
        if biased and any(wrapper in name for wrapper in _WRAPPED):
            return  # it comes once more, by the name of the module itself
        if own and not self._config.targets(module):
            raise self._not_named(module, stored)
        trained = own or biased or self._config.saves(module)
        if not trained and parameter != "weight":
            raise self._bad(stored, f"is no part of a {self._config.type} adapter", _AGAIN)
        self._check_floats(stored)
        self._put(self.replaced if trained else self.copies, f"{module}.{parameter}", stored)

    def _is_tied_head(self, module: str) -> bool:
        """Whether it is a head that PEFT has tied to an embedding; the configuration names only that one."""
        return bool(self._config.values.get("ensure_weight_tying")) and module.rpartition(".")[2] in HEADS

    def _check_floats(self, stored: Stored) -> None:
        if stored.info.dtype not in FLOATS:
            problem = f"is {stored.info.dtype} {list(stored.info.shape)}, no floats"
            raise self._bad(stored, problem, "save the adapter again, gathered")

    def _put(self, table: dict[str, Stored], key: str, stored: Stored) -> None:
        if (other := table.get(key)) is not None:
            raise self._bad(stored, f"and {other.info.name!r} are one and the same", _AGAIN)
        table[key] = stored

    def _not_named(self, module: str, stored: Stored) -> InvalidError:
        problem = f"is on {module}, which target_modules does not name"
        return self._bad(stored, problem, "save weights and configuration together")

    def _bad(self, stored: Stored, problem: str, mend: str) -> InvalidError:
        return bad_tensor(self._folder, stored.info.name, problem, mend)


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _split(name: str, leaves: Iterable[str]) -> tuple[str, str]:
    """Module and leaf; the leaf is empty where the name ends in none of them."""
    parts = name.split(".")
    for leaf in sorted(leaves, key=len, reverse=True):
        wanted = leaf.split(".")
        module, found = parts[: -len(wanted)], parts[-len(wanted) :]
        if module and all(map(_fits, wanted, found)):
            return ".".join(module), ".".join(found)
    return "", ""


def _fits(wanted: str, part: str) -> bool:
    return wanted == part or (wanted == "#" and part.isdecimal())


def bad_tensor(folder: Path, name: str, problem: str, mend: str) -> InvalidError:
    """An error on one tensor of an adapter."""
    return InvalidError(f"tensor {name!r} {problem}", where=str(folder / ADAPTER_WEIGHTS), mend=mend)
