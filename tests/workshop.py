"""Makes tiny models and adapters without transformers, and the contexts of stage functions by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from builder.runner import Runner
from builder.stage import Context, Input
from builder.weights.layout import write_adapter, write_new_model
from registry.artifact import Artifact
from registry.provenance import Provenance, ProvenanceInput
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.digest import Digest

__all__ = ["DOWN", "HIDDEN", "INNER", "QUERY", "WORDS", "Workshop", "llama", "lora"]

HIDDEN, INNER, WORDS = 8, 12, 16
QUERY = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"


def llama(*, layers: int = 2, dtype: torch.dtype = torch.bfloat16, tied: bool = False) -> dict[str, torch.Tensor]:
    """Random tensors, named and shaped as Llama's are."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    tensors = {"model.embed_tokens.weight": draw(WORDS, HIDDEN), "model.norm.weight": draw(HIDDEN)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            tensors[f"{prefix}.self_attn.{name}_proj.weight"] = draw(HIDDEN, HIDDEN)
        tensors[f"{prefix}.mlp.up_proj.weight"] = draw(INNER, HIDDEN)
        tensors[f"{prefix}.mlp.down_proj.weight"] = draw(HIDDEN, INNER)
        tensors[f"{prefix}.input_layernorm.weight"] = draw(HIDDEN)
        tensors[f"{prefix}.post_attention_layernorm.weight"] = draw(HIDDEN)
    if not tied:
        tensors["lm_head.weight"] = draw(WORDS, HIDDEN)
    return tensors


def lora(modules: Mapping[str, tuple[int, int]], *, rank: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
    """Random factors; module -> (out, in)."""
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, torch.Tensor] = {}
    for module, (rows, columns) in modules.items():
        factors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        factors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    return factors


@dataclass
class Workshop:
    """A folder to work in, and what is made in it.

    Attributes:
        root: The folder.
        said: What stages told the person at the terminal.
    """

    root: Path
    said: list[str] = field(default_factory=list)
    _made: int = 0

    def folder(self) -> Path:
        """A new, empty folder."""
        self._made += 1
        folder = self.root / f"made-{self._made}"
        folder.mkdir(parents=True)
        return folder

    def model(self, tensors: Mapping[str, torch.Tensor] | None = None, **config: object) -> Path:
        """Folder of a model's artifact."""
        folder, path = self.folder(), self.folder() / "config.json"
        path.write_text(json.dumps({"model_type": "llama", **config}))
        written = write_new_model(
            folder,
            tensors=llama() if tensors is None else tensors,
            files={"config.json": path},
            provenance=Provenance(kind="import", method="model"),
        )
        Artifact.from_folder(folder, "model", written).write(folder)
        return folder

    def unsound(self, tensors: Mapping[str, torch.Tensor], **config: object) -> Path:
        """Folder of a model's artifact whose tensors may hold NaN, which no stage would write."""
        folder = self.model({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, **config)
        for path in folder.glob("*.safetensors"):
            with path.open("r+b") as stream:
                for info in read_header(path).tensors.values():
                    stream.seek(info.offset)
                    stream.write(tensors[info.name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        Artifact.from_folder(folder, "model").write(folder)
        return folder

    def adapter(
        self,
        trained_on: Path | None,
        tensors: Mapping[str, torch.Tensor] | None = None,
        *,
        role: str = "from",
        **config: object,
    ) -> Path:
        """Folder of an adapter's artifact."""
        folder = self.folder()
        digest = None if trained_on is None else weights_digest(trained_on)
        inputs = () if digest is None else (ProvenanceInput(role=role, weights_digest=digest),)
        written = write_adapter(
            folder,
            tensors=lora({QUERY: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER)}) if tensors is None else tensors,
            config=config if "peft_type" in config else {"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config,
            provenance=Provenance(kind="sft", method="lora", inputs=inputs),
        )
        Artifact.from_folder(folder, "adapter", written).write(folder)
        return folder

    def input(
        self,
        role: str,
        path: Path,
        *,
        name: str = "",
        weight: float | None = None,
        ancestors: frozenset[Digest] = frozenset(),
        row_ancestors: frozenset[Digest] | None = None,
    ) -> Input:
        """An artifact as a stage is given it."""
        artifact = Artifact.read(path)
        return Input(
            role=role,
            name=name or role,
            path=path,
            digest=artifact.digest,
            artifact=artifact,
            format="",
            settings={} if weight is None else {"weight": weight},
            source=f"demo:{name or role}",
            ancestors=ancestors,
            row_ancestors=row_ancestors,
        )

    def context(self, settings: object, *inputs: Input, threads: int = 2) -> Context[Any]:
        """A context with new folders."""
        return Context(
            settings=settings,
            inputs=inputs,
            work=self.folder(),
            out=self.folder(),
            root=self.root,
            runner=Runner(threads=threads),
            say=self.said.append,
        )


def weights_digest(folder: Path) -> Digest:
    """Of an artifact's folder."""
    digest = Artifact.read(folder).weights_digest
    assert digest is not None, "the artifact has no tensors"
    return digest
