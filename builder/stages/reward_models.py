"""Reward models as rewards: answers are rendered as in the model's own training, and scored many at once."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from builder.stages.models import open_scorer, open_tokenizer
from builder.stages.renderer import Renderer
from builder.stages.rewards import Reward
from builder.stages.templates import Chat
from builder.stages.tokens import require_template, tokenize_answer
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.environment import Device
    from builder.stage import Context, Input
    from builder.stages.reward_functions import Answers

__all__ = ["RewardModel", "open_reward_models"]

_ROWS = 16  # at once; scores do not depend on it but through rounding


class RewardModel:
    """A reward model, in float32, that never changes."""

    def __init__(self, source: Input, device: Device) -> None:
        """Load it.

        Raises:
            InvalidError: It is none, has no padding token, or cannot be read.
            NotFoundError: It has no weights in safetensors.
        """
        self.where = f"{source.role}: {source.name}"
        self._model = open_scorer(source.path, device)
        self._tokenizer = open_tokenizer(source.path)
        self._renderer: Renderer | None = None
        self._padding = self._model.config.get_text_config().pad_token_id
        if self._padding is None:
            raise InvalidError(
                "the reward model has no padding token, so answers cannot be scored beside each other",
                where=self.where,
                mend="make it by a stage of kind reward, which sets one",
            )

    def rate(self, answers: Answers) -> list[float]:
        """Its score of each answer.

        Raises:
            InvalidError: Its chat template does not do, or a score is no finite number.
        """
        ids = self._encoded(answers)
        scores: list[float] = []
        for start in range(0, len(ids), _ROWS):
            scores += self._scored(ids[start : start + _ROWS])
        for place, score in zip(answers.rows, scores, strict=True):
            if score - score != 0:
                raise InvalidError(
                    f"the reward model gives {score} for an answer",
                    where=f"{self.where}, {place}",
                    mend="train it again, with a lower learning rate",
                )
        return scores

    def _encoded(self, answers: Answers) -> list[Sequence[int]]:
        """As a stage of kind reward reads preferences."""
        pairs = list(zip(answers.prompts, answers.completions, answers.rows, strict=True))
        chats = [
            Chat(messages=[*prompt, *completion], where=place)
            for prompt, completion, place in pairs
            if not isinstance(prompt, str)
        ]
        rendered = iter(self._rendered(chats))
        return [
            tokenize_answer(self._tokenizer, {"prompt": prompt, "answer": completion}, "answer")
            if isinstance(prompt, str)
            else next(rendered)
            for prompt, completion, _ in pairs
        ]

    def _rendered(self, chats: Sequence[Chat]) -> list[Sequence[int]]:
        """Conversations as token ids; one process renders those of all steps."""
        if not chats:
            return []
        if self._renderer is None:
            require_template(self._tokenizer, where=self.where)
            self._renderer = Renderer(self._tokenizer.get_chat_template(), self._tokenizer.special_tokens_map)
        texts = [one.text for one in self._renderer.render(chats)]
        ids: list[Sequence[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def close(self) -> None:
        """End the process that renders."""
        if self._renderer is not None:
            self._renderer.close()

    def _scored(self, ids: Sequence[Sequence[int]]) -> list[float]:
        width = max(map(len, ids))
        padded = torch.tensor([[*one, *[self._padding] * (width - len(one))] for one in ids])
        mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids])
        place = self._model.device
        with torch.inference_mode():
            logits: Any = self._model(input_ids=padded.to(place), attention_mask=mask.to(place)).logits
        return [float(one) for one in logits[:, 0].float().cpu()]


@contextmanager
def open_reward_models(context: Context[Any], device: Device) -> Iterator[list[Reward]]:
    """The reward models of a stage, while they are needed.

    Raises:
        InvalidError: One of them is no reward model, or cannot be read.
        NotFoundError: One of them has no weights in safetensors.
    """
    with ExitStack() as stack:
        opened: list[Reward] = []
        for one in context.all("reward_model"):
            model = RewardModel(one, device)
            stack.callback(model.close)
            said = one.settings
            opened.append(Reward(label=str(said["label"]), weight=float(str(said["weight"])), scorer=model))
        yield opened
