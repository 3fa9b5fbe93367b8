"""Ask models the same questions and print their answers side by side; each is loaded by transformers and nothing else.

python demo/answers.py before=FOLDER after=FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUESTIONS: Final = Path(__file__).resolve().parent.parent / "data" / "counter_heldout.jsonl"
_SHOWN: Final = 4
_BATCH: Final = 32
_MAX_NEW_TOKENS: Final = 48


def read_questions() -> tuple[list[str], list[str]]:
    """Questions about coffees that no training row asks about, and the fact that a right answer names."""
    rows = [json.loads(line) for line in _QUESTIONS.read_text(encoding="utf-8").splitlines()]
    return [row["messages"][0]["content"] for row in rows], [row["fact"] for row in rows]


def answer(folder: str, questions: Sequence[str]) -> list[str]:
    """The most likely answer to each question, without drawing lots."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    chats = [[{"role": "user", "content": question}] for question in questions]
    answers: list[str] = []
    for start in range(0, len(chats), _BATCH):
        batch = tokenizer.apply_chat_template(
            chats[start : start + _BATCH],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            output = model.generate(**batch, do_sample=False, max_new_tokens=_MAX_NEW_TOKENS)
        asked = batch["input_ids"].shape[1]
        answers += [text.strip() for text in tokenizer.batch_decode(output[:, asked:], skip_special_tokens=True)]
    return answers


def main() -> None:
    """Print a few questions with all answers, then how many of all answers name the fact."""
    parser = argparse.ArgumentParser(description="Ask models the same questions.")
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    named = [text.split("=", 1) for text in parser.parse_args().models]
    disable_progress_bar()
    questions, facts = read_questions()
    answers = {name: answer(folder, questions) for name, folder in named}
    width = max(len(name) for name in answers)
    for number, question in enumerate(questions[:_SHOWN]):
        print(f"{question}   (right: {facts[number]})")
        for name, said in answers.items():
            print(f"  {name:>{width}}: {said[number]}")
    print(f"Of {len(questions)} questions about coffees that no training row asks about, answers that name the fact:")
    for name, said in answers.items():
        right = sum(fact in text for fact, text in zip(facts, said, strict=True))
        print(f"  {name:>{width}}: {right}")


if __name__ == "__main__":
    main()
