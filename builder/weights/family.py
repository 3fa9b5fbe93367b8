"""The families of causal models whose shape can be changed, and what of that their names and settings do not tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["FAMILIES", "SCORE", "Family", "family_of"]

SCORE: Final = "score.weight"
"""Name on disk of what every classifier has in place of the language model's head."""

Positions: TypeAlias = Literal["rotary", "rotary, not to be scaled", "learned"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One model type of transformers.

    Attributes:
        stem: What its classes' names begin with, as in ``LlamaForCausalLM``.
        positions: How it knows where a token stands: ``rotary`` angles (``not to be scaled`` where layers have several
            sets of them, or the code knows only a way of its own), or a ``learned`` table.
        head: Name on disk of the language model's head, where it has weights of its own.
        spelled: Lists with an entry for each layer that the code makes up from the layers' numbers where the
            configuration has none.
    """

    stem: str
    positions: Positions = "rotary"
    head: str = "lm_head.weight"
    spelled: tuple[str, ...] = ()

    @property
    def classifier(self) -> str:
        """Name of the class with a score for each label."""
        return f"{self.stem}ForSequenceClassification"


FAMILIES: Final[Mapping[str, Family]] = {
    "falcon": Family(stem="Falcon"),
    "gemma": Family(stem="Gemma"),
    "gemma2": Family(stem="Gemma2", spelled=("layer_types",)),
    "gemma3_text": Family(stem="Gemma3Text", positions="rotary, not to be scaled", spelled=("layer_types",)),
    "gpt2": Family(stem="GPT2", positions="learned"),
    "gpt_neox": Family(stem="GPTNeoX", head="embed_out.weight"),
    "llama": Family(stem="Llama"),
    "mistral": Family(stem="Mistral"),
    "mixtral": Family(stem="Mixtral"),
    "olmo": Family(stem="Olmo"),
    "olmo2": Family(stem="Olmo2"),
    "phi": Family(stem="Phi"),
    "phi3": Family(stem="Phi3", positions="rotary, not to be scaled"),
    "qwen2": Family(stem="Qwen2"),
    "qwen2_moe": Family(stem="Qwen2Moe"),
    "qwen3": Family(stem="Qwen3"),
    "qwen3_moe": Family(stem="Qwen3Moe"),
    "smollm3": Family(stem="SmolLM3", spelled=("no_rope_layers",)),
    "stablelm": Family(stem="StableLm"),
    "starcoder2": Family(stem="Starcoder2"),
}
"""By ``model_type`` of the configuration."""


def family_of(config: Mapping[str, JSON], *, what: str, where: str) -> Family:
    """The family of a model.

    Args:
        config: The value of its ``config.json``.
        what: What it is needed for, as in "another head".
        where: For errors.

    Raises:
        InvalidError: It is of no family in the table.
    """
    name = config.get("model_type")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise InvalidError(
            f"{what} is not known for model type {name!r}",
            where=where,
            mend=f"it is known for {', '.join(FAMILIES)}",
        )
    return family
