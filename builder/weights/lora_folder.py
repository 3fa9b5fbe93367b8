"""Plain LoRA adapters as PEFT loads them: names of tensors, configuration, what goes along with the factors.

Each pair of factors is scaled by 1: alpha is the rank, everywhere. So a server that does not read ``rank_pattern`` and
``alpha_pattern`` scales rightly all the same, and ``r`` is the largest rank that it has to make room for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.weights.layout import write_adapter_contents
from builder.weights.renamed import Renamed
from builder.weights.stream import CPU, Held, Scratch, Stored, not_finite
from registry.errors import InvalidError
from registry.safetensors import TensorSpec, Writer, read_header

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.weights.low_rank import Pair
    from builder.weights.stream import Content
    from registry.provenance import Provenance
    from registry.safetensors import WrittenFile

__all__ = ["Adapted", "LoraFolder", "Tokens", "spool"]

_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapted:
    """A module with a pair of factors.

    Attributes:
        module: Its name, as PEFT has it.
        up: LoRA's B, shape ``[out, rank]``.
        down: LoRA's A, shape ``[rank, in]``.
        embedding: The module is an embedding, whose factors have other names.
        conv1d: The module is transformers' Conv1D.
    """

    module: str
    up: Stored
    down: Stored
    embedding: bool = False
    conv1d: bool = False

    @property
    def rank(self) -> int:
        """Rank of the pair."""
        return self.down.info.shape[0]

    def contents(self) -> Iterator[Content]:
        """Both factors under PEFT's names."""
        for letter, factor in (("A", self.down), ("B", self.up)):
            leaf = f"lora_embedding_{letter}" if self.embedding else f"lora_{letter}.weight"
            yield Renamed(content=factor, name=f"{_PREFIX}{self.module}.{leaf}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """New rows of an embedding.

    Attributes:
        indices: Which rows.
        content: Their values, shape ``[tokens, width]``.
    """

    indices: tuple[int, ...]
    content: Content


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraFolder:
    """A LoRA adapter before it is written.

    Attributes:
        adapted: Modules with factors.
        saved: Module -> parameter -> its values, for modules that are saved whole.
        biases: Module -> its bias, for modules of which only that is saved.
        tokens: Embedding module -> new rows.
        task_type: PEFT's word for what the model is for; ``None`` leaves it open.
    """

    adapted: tuple[Adapted, ...]
    saved: Mapping[str, Mapping[str, Content]] = field(default_factory=dict)
    biases: Mapping[str, Content] = field(default_factory=dict)
    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    task_type: str | None = None

    def write(self, out: Path, *, modules: Collection[str], provenance: Provenance) -> tuple[WrittenFile, ...]:
        """Write PEFT's two files.

        Args:
            out: Folder without these files.
            modules: Every module of the model that has weights; PEFT takes names for endings of names.
            provenance: Goes into the metadata.

        Raises:
            InvalidError: No module has factors, or PEFT would take a module's name for that of another one, too.
            OSError: A file cannot be read or written.
        """
        where = str(out)
        if not self.adapted:
            raise InvalidError(
                "no matrix changes, and a LoRA adapter must have one",
                where=where,
                mend="check the weights and selectors of the stage; nothing that LoRA can hold is left",
            )
        self._check_names(modules, where)
        return write_adapter_contents(
            out, contents=list(self._contents()), config=self._config(), provenance=provenance
        )

    def _contents(self) -> Iterator[Content]:
        for one in self.adapted:
            yield from one.contents()
        for module, parameters in self.saved.items():
            for parameter, content in parameters.items():
                yield Renamed(content=content, name=f"{_PREFIX}{module}.{parameter}")
        wrapped = {one.module for one in self.adapted}
        for module, content in self.biases.items():
            inner = ".base_layer" if module in wrapped else ""
            yield Renamed(content=content, name=f"{_PREFIX}{module}{inner}.bias")
        for module, tokens in self.tokens.items():
            yield Renamed(content=tokens.content, name=f"{_PREFIX}{module}.token_adapter.trainable_tokens_delta")

    def _config(self) -> dict[str, object]:
        rank = max(one.rank for one in self.adapted)
        # Whole names from the first letter on: no two of them fit one module, in whatever order PEFT tries them.
        ranks = {f"^{re.escape(one.module)}": one.rank for one in self.adapted if one.rank != rank}
        biased = self.biases.keys() - {one.module for one in self.adapted}
        return {
            "peft_type": "LORA",
            "task_type": self.task_type,
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": ranks,
            "alpha_pattern": ranks,
            "target_modules": [one.module for one in self.adapted],
            "modules_to_save": list(self.saved) or None,
            "trainable_token_indices": {name: list(tokens.indices) for name, tokens in self.tokens.items()} or None,
            "bias": "all" if biased else "lora_only" if self.biases else "none",
            "fan_in_fan_out": any(one.conv1d for one in self.adapted),
            "init_lora_weights": True,
            "lora_dropout": 0.0,
            "use_dora": False,
            "use_rslora": False,
        }

    def _check_names(self, modules: Collection[str], where: str) -> None:
        """PEFT takes a module where its name ends as one in the list does; for saved modules even within a word."""
        adapted = [one.module for one in self.adapted]
        for names, tails in ((adapted, [f".{name}" for name in adapted]), (list(self.saved), list(self.saved))):
            for name, tail in zip(names, tails, strict=True):
                others = sorted(other for other in modules if other.endswith(tail) and other not in names)
                if others:
                    raise InvalidError(
                        f"PEFT would take {name!r} for {others[0]!r}, too, whose name ends like it",
                        where=where,
                        mend="leave that module out, or use the model under its full class, with the names of its file",
                    )


def spool(path: Path, module: str, pair: Pair, *, embedding: bool = False, conv1d: bool = False) -> Adapted:
    """Put a pair of factors on disk until the adapter is written, so that only one is in memory.

    Args:
        path: The file to write.
        module: Name of the module.
        pair: The factors.
        embedding: The module is an embedding.
        conv1d: The module is transformers' Conv1D.

    Raises:
        InvalidError: A factor does not fit float32.
        OSError: The file cannot be written.
    """
    contents = []
    for letter, factor in (("A", pair.down.to(CPU)), ("B", pair.up.to(CPU))):
        spec = TensorSpec(name=f"{module}.{letter}", dtype="F32", shape=tuple(factor.shape))
        if not bool(factor.isfinite().all()):  # rounding made it so: the matrix itself was finite
            raise not_finite(spec, where=f"LoRA factors of {module}", fits=True)
        contents.append(Held(spec=spec, tensor=factor))
    _write(path, contents)
    tensors = read_header(path).tensors
    down, up = (Stored(path=path, info=tensors[content.spec.name]) for content in contents)
    return Adapted(module=module, up=up, down=down, embedding=embedding, conv1d=conv1d)


def _write(path: Path, contents: Sequence[Content]) -> None:
    scratch = Scratch()
    by_name = {content.spec.name: content for content in contents}
    with Writer(path, [content.spec for content in contents], {}) as writer:
        for spec in writer.order:
            for block in by_name[spec.name].blocks(scratch):
                writer.write(block)
        writer.finish()
