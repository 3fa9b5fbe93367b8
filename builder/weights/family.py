"""The families of causal models whose shape can be changed, and what of that their names and settings do not tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON
    from registry.components import Network

__all__ = [
    "FAMILIES",
    "SCORE",
    "TIE",
    "Family",
    "family_of",
    "has_token_rows",
    "ties_words",
]

SCORE: Final = "score.weight"
"""Name on disk of what every classifier has in place of the language model's head."""

TIE: Final = "tie_word_embeddings"
"""Key of a configuration: whether the language model's head is the embedding, too."""

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
        tied: Whether the head is the embedding, too, where the configuration does not say.
    """

    stem: str
    positions: Positions = "rotary"
    head: str = "lm_head.weight"
    spelled: tuple[str, ...] = ()
    tied: bool = False

    @property
    def classifier(self) -> str:
        """Name of the class with a score for each label."""
        return f"{self.stem}ForSequenceClassification"


FAMILIES: Final[Mapping[str, Family]] = {
    "falcon": Family(stem="Falcon", tied=True),
    "gemma": Family(stem="Gemma", tied=True),
    "gemma2": Family(stem="Gemma2", spelled=("layer_types",), tied=True),
    "gemma3_text": Family(stem="Gemma3Text", positions="rotary, not to be scaled", spelled=("layer_types",), tied=True),
    "gpt2": Family(stem="GPT2", positions="learned", tied=True),
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
    "smollm3": Family(stem="SmolLM3", spelled=("no_rope_layers",), tied=True),
    "stablelm": Family(stem="StableLm"),
    "starcoder2": Family(stem="Starcoder2", tied=True),
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
    family = _known_family(config)
    if family is None:
        raise InvalidError(
            f"{what} is not known for model type {config.get('model_type')!r}",
            where=where,
            mend=f"it is known for {', '.join(FAMILIES)}",
        )
    return family


def _known_family(config: Mapping[str, JSON]) -> Family | None:
    """The family of a model; ``None`` where it is of none in the table."""
    name = config.get("model_type")
    return FAMILIES.get(name) if isinstance(name, str) else None


def ties_words(config: Mapping[str, JSON]) -> bool:
    """Whether the head is the embedding: as the configuration says, else the family; of an unknown one it is not."""
    said, family = config.get(TIE), _known_family(config)
    return said is True or (said is None and family is not None and family.tied)


def has_token_rows(network: Network, name: str) -> bool:
    """Whether a tensor has a row, or an entry, for each token: the embedding and the language model's head.

    A classifier's head, though of component ``head``, has a row for each label.
    """
    place = network.places.get(name)
    return place is not None and name != SCORE and (place.component == "embedding.token" or place.is_in("head"))
