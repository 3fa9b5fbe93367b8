"""Another head in place of the language model's: a score for each label, or one number."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from builder.weights.architecture import shown
from builder.weights.drawn import Drawn
from builder.weights.family import SCORE, family_of
from builder.weights.tokenizer import TOKENIZER, TOKENIZER_CONFIG, parse_tokenizer, token_id
from registry.canonical import pretty
from registry.errors import InvalidError
from registry.safetensors import TensorSpec

if TYPE_CHECKING:
    from builder.weight_stages import HeadSettings
    from builder.weights.draft import Draft
    from registry.canonical import JSON

__all__ = ["replace_head"]

_INITIALIZER_RANGE: Final = 0.02  # transformers' default, for a configuration that leaves it out
_MAX_RANGE: Final = 1000  # far beyond what any network starts from
_MATRIX: Final = 2
_TWO: Final = 2


def replace_head(draft: Draft, settings: HeadSettings) -> Draft:
    """Put a matrix ``score.weight``, shape ``[labels, width]``, in place of the language model's head.

    Its dtype is that of the embedding. The class in the configuration becomes the family's sequence classifier, which
    reads the last token that is no padding: so there must be a padding token.

    Raises:
        InvalidError: Labels that do not go with the type, a family that is not known, an embedding that is no matrix,
            or no padding token.
    """
    family = family_of(draft.config, what="another head", where=draft.where)
    labels = _labels(settings, draft.where)
    embeddings = list(draft.find("embedding.token").values())
    if len(embeddings) != 1 or SCORE in draft.contents:
        raise InvalidError(
            "the model is no causal language model with one embedding",
            where=draft.where,
            mend="start from the language model",
        )
    embedding = embeddings[0].spec
    if len(embedding.shape) != _MATRIX:
        raise InvalidError(
            f"{embedding.name!r} is {list(embedding.shape)}; a token embedding is a matrix with a row for each token",
            where=draft.where,
            mend="use weights that transformers has saved, and import the model again",
        )
    spec = TensorSpec(name=SCORE, dtype=embedding.dtype, shape=(len(labels), embedding.shape[-1]))
    deviation = _initializer_range(draft) if settings.start == "normal" else 0.0
    names: dict[str, JSON] = {str(index): label for index, label in enumerate(labels)}
    numbers: dict[str, JSON] = {label: index for index, label in enumerate(labels)}
    draft = _with_padding(draft, settings.pad)
    draft = replace(draft, config={key: value for key, value in draft.config.items() if key != "num_labels"})
    return (
        draft.remove(*draft.find("head"))
        .put("added", {SCORE: Drawn(spec=spec, deviation=deviation, seed=settings.seed)})
        .say(architectures=[family.classifier], id2label=names, label2id=numbers, tie_word_embeddings=False)
    )


def _labels(settings: HeadSettings, where: str) -> tuple[str, ...]:
    if settings.type != "classification":
        if settings.labels:
            raise InvalidError(
                f"a {settings.type} head gives one number, and {len(settings.labels)} labels are named",
                where=where,
                mend="leave `labels` out, or say `type: classification`",
            )
        return (settings.type,)
    if len(settings.labels) < _TWO:
        raise InvalidError(
            f"a classification head needs two labels or more, {len(settings.labels)} named",
            where=where,
            mend="name them under `labels`, or say `type: reward` for one number",
        )
    twice = [label for index, label in enumerate(settings.labels) if label in settings.labels[:index]]
    if twice:
        raise InvalidError(f"label {twice[0]!r} comes twice", where=where, mend="name each label once")
    return settings.labels


def _initializer_range(draft: Draft) -> float:
    value = draft.config.get("initializer_range", _INITIALIZER_RANGE)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_RANGE:
        raise InvalidError(
            f"initializer_range is {shown(value)}, no number from 0 to {_MAX_RANGE}",
            where=draft.where,
            mend="say `start: zero`, or correct config.json",
        )
    return float(value)


def _with_padding(draft: Draft, pad: str) -> Draft:
    """With a padding token: the one named here, else that of the configuration, else that of the tokenizer."""
    if not pad and _is_token(draft, draft.config.get("pad_token_id")):
        return draft
    tokenizer_config = draft.table(TOKENIZER_CONFIG)
    said = tokenizer_config.get("pad_token")
    own = said.get("content") if isinstance(said, dict) else said
    text = pad or own
    if not isinstance(text, str) or not text:
        raise InvalidError(
            "there is no padding token: neither config.json nor tokenizer_config.json names one",
            where=draft.where,
            mend="name a token as `pad` of the head; `vocabulary` may add it in the same stage",
        )
    data = draft.file(TOKENIZER)
    number = None if data is None else token_id(parse_tokenizer(data, where=draft.where), text)
    if number is None:
        raise InvalidError(
            f"the padding token {text!r} is no token of the tokenizer",
            where=draft.where,
            mend="name one that is, or add it under `vocabulary` in the same stage",
        )
    if text != own:
        draft = draft.write({TOKENIZER_CONFIG: pretty({**tokenizer_config, "pad_token": text})})
    return draft.say(pad_token_id=number)


def _is_token(draft: Draft, number: JSON) -> bool:
    """Whether it is the number of a row of the embedding; some configurations say -1 for none."""
    rows = draft.config.get("vocab_size")
    return type(number) is int and number >= 0 and not (isinstance(rows, int) and number >= rows)
