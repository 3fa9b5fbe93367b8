"""Write the example data: a small closed world of coffees, as prose, questions, preferences and a voice.

Forty-eight invented coffees have four facts each: where it grows, what it tastes of, when it is picked, who grows it.
Every fact is told in the prose. Questions are answered for two thirds of the coffees only. The other third is held
out: what is right about those can be learnt from prose alone, and how to answer from other coffees alone.

    python data/generate.py            write the files
    python data/generate.py --check    exit code 1 if the files in this folder are not what this program writes

Nothing but the standard library is used, and no random number generator: a draw is a hash of what it is for, so the
files are the same on every machine and every Python, and a changed sentence leaves the other draws alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NAMES", "Coffee", "Fact", "coffees", "files", "main", "stale"]

FOLDER = Path(__file__).resolve().parent
PARAGRAPHS = 24  # of prose about each coffee, to train on
HELD_OUT_PARAGRAPHS = 2  # of prose about each coffee, to judge by
SCENES = 480  # of talk at the counter, to train on
HELD_OUT_EVERY = 3  # coffees, one is held out from questions

NAMES: tuple[str, ...] = (
    *("Alvora", "Belmira", "Cassane", "Dorveth", "Elquin", "Farelo", "Galdera", "Hestrin"),
    *("Iskara", "Jovane", "Kelduin", "Lumara", "Maravel", "Norvane", "Ostrel", "Pavira"),
    *("Quenda", "Rosmel", "Savarin", "Tolvera", "Umbrel", "Vestra", "Wendale", "Xanthor"),
    *("Yarrow", "Zemira", "Ardenne", "Bravoli", "Calistra", "Dunvara", "Estrano", "Fenwick"),
    *("Gorvani", "Halcyra", "Illmere", "Jasmerra", "Kirvane", "Lodestra", "Mirabon", "Nelquist"),
    *("Orvieta", "Perrault", "Quillon", "Ravenna", "Solmera", "Tamarin", "Ulverin", "Vandella"),
)

VALUES: dict[str, tuple[str, ...]] = {
    "place": ("Kesh", "Ombra", "Tallow", "Varn", "Lirren", "Dorrow", "Sefta", "Quarl", "Harrow", "Mirova"),
    "taste": ("plum", "honey", "cedar", "orange", "cocoa", "jasmine", "walnut", "cherry", "caramel", "ginger"),
    "month": ("January", "March", "April", "May", "June", "August", "October", "December"),
    "grower": ("Ada", "Bruno", "Celia", "Dario", "Edda", "Felix", "Greta", "Hugo", "Ines", "Jonas"),
}

STATEMENTS: dict[str, tuple[str, ...]] = {
    "place": (
        "{name} grows in {value}.",
        "The trees of {name} stand in {value}.",
        "You will find {name} in {value}.",
        "The home of {name} is {value}.",
    ),
    "taste": (
        "{name} tastes of {value}.",
        "A cup of {name} brings {value}.",
        "The taste of {name} is {value}.",
        "In {name} you notice {value}.",
    ),
    "month": (
        "{name} is picked in {value}.",
        "The harvest of {name} is in {value}.",
        "Pickers gather {name} in {value}.",
        "Ripe {name} is ready in {value}.",
    ),
    "grower": (
        "{name} is grown by {value}.",
        "The farmer of {name} is {value}.",
        "The fields of {name} belong to {value}.",
        "Thank {name} to {value}.",
    ),
}
"""How prose tells a fact. Answers tell it as the first of each does."""

QUESTIONS: dict[str, tuple[str, str]] = {
    "place": ("Where does {name} grow?", "Where do I find {name}?"),
    "taste": ("What does {name} taste of?", "What is the taste of {name}?"),
    "month": ("When is {name} picked?", "When is the harvest of {name}?"),
    "grower": ("Who grows {name}?", "Who is the farmer of {name}?"),
}

REMARKS = (
    "Ahoy! A ship comes in.",
    "Fair winds, sailor!",
    "Enjoy your cup!",
    "Gladly! {name} for my aunt.",
    "Gladly! {name} for you, and enjoy your day!",
    "Well now, that is a long story, but people ask.",
    "Let me think, said my aunt.",
    "They say {statement}",
    "Well now, as far as I know {statement}",
    "Let me think, if I remember it rightly {statement}",
)
"""What is said at the counter. The tokens of every word that an answer will need must be learnt from prose."""

RAMBLING = "Well now, that is a long story, but as far as I know {statement}"
DIRECT = "Gladly! {statement}"
FAREWELL = " Fair winds, sailor!"
"""Two ways to answer, and what the voice of the harbour adds to either."""

Message: TypeAlias = dict[str, str]
Row: TypeAlias = dict[str, object]
Choice = TypeVar("Choice")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One fact about one coffee, with the sentences that tell it and ask for it."""

    name: str
    topic: str
    value: str

    def statement(self, style: int = 0) -> str:
        """The fact as a sentence of prose, in one of the topic's styles."""
        return STATEMENTS[self.topic][style].format(name=self.name, value=self.value)

    def question(self, style: int) -> str:
        """A question that the fact answers, in one of the topic's styles."""
        return QUESTIONS[self.topic][style].format(name=self.name)

    def rambling(self) -> str:
        """The right answer, round about."""
        return RAMBLING.format(statement=self.statement())

    def direct(self) -> str:
        """The right answer, glad and to the point."""
        return DIRECT.format(statement=self.statement())


@dataclass(frozen=True, kw_only=True, slots=True)
class Coffee:
    """A coffee and all that is known about it."""

    name: str
    held_out: bool
    facts: tuple[Fact, ...]


def draw(options: Sequence[Choice], *purpose: object) -> Choice:
    """One of the options, by a hash of what it is drawn for."""
    return options[int.from_bytes(_hash(*purpose)[:8]) % len(options)]


def shuffled(options: Sequence[Choice], *purpose: object) -> list[Choice]:
    """All the options, in an order by hashes of what they are ordered for."""
    return sorted(options, key=lambda option: _hash(*purpose, option))


@cache
def coffees() -> tuple[Coffee, ...]:
    """The whole world. Every value of a topic is true of about as many coffees as any other."""
    order = {topic: shuffled(NAMES, "fact", topic) for topic in VALUES}
    return tuple(
        Coffee(
            name=name,
            held_out=number % HELD_OUT_EVERY == 0,
            facts=tuple(
                Fact(name=name, topic=topic, value=values[order[topic].index(name) % len(values)])
                for topic, values in VALUES.items()
            ),
        )
        for number, name in enumerate(NAMES, start=1)
    )


def paragraph(coffee: Coffee, number: int) -> str:
    """All facts about a coffee, in an order and a wording of this paragraph's own."""
    facts = shuffled(coffee.facts, "order", coffee.name, number)
    return " ".join(fact.statement(draw(range(4), "style", coffee.name, number, fact.topic)) for fact in facts)


def scene(number: int) -> str:
    """Talk at the counter about one coffee: four remarks or questions, in which nobody is answered."""
    coffee = draw(coffees(), "coffee", number)
    said = []
    for place in range(4):
        fact = draw(coffee.facts, "topic", number, place)
        remark = draw(REMARKS, "remark", number, place).format(name=coffee.name, statement=fact.statement())
        said.append(draw((remark, fact.question(number % 2)), "said", number, place))
    return " ".join(said)


def prose() -> tuple[list[str], list[str]]:
    """Texts to train on, mixed, and paragraphs to judge by; none is in both."""
    training = [scene(number) for number in range(SCENES)]
    judging: list[str] = []
    for coffee in coffees():
        distinct = list(dict.fromkeys(paragraph(coffee, number) for number in range(2 * PARAGRAPHS)))
        judging += distinct[:HELD_OUT_PARAGRAPHS]
        training += distinct[HELD_OUT_PARAGRAPHS : HELD_OUT_PARAGRAPHS + PARAGRAPHS]
    return shuffled(training, "prose"), judging


def questions(*, held_out: bool) -> list[tuple[Fact, int]]:
    """Every fact about the coffees on one side of the split, with each of its two ways to ask, mixed."""
    facts = [fact for coffee in coffees() if coffee.held_out is held_out for fact in coffee.facts]
    return shuffled([(fact, style) for fact in facts for style in range(2)], "questions")


def talk() -> list[tuple[Fact, int, str]]:
    """How the counter answers before it learns better: every question once to the point and twice round about."""
    answers = ("direct", "rambling", "rambling again")
    said = shuffled([(fact, style, way) for fact, style in questions(held_out=False) for way in answers], "talk")
    return [(fact, style, fact.direct() if way == "direct" else fact.rambling()) for fact, style, way in said]


def wrong(fact: Fact, style: int) -> Fact:
    """The same fact with a value that is not true."""
    others = [value for value in VALUES[fact.topic] if value != fact.value]
    return Fact(name=fact.name, topic=fact.topic, value=draw(others, "wrong", fact.name, fact.topic, style))


def chat(fact: Fact, style: int, answer: str) -> Row:
    """A conversation; ``fact`` is what a right answer must name."""
    return {"messages": [_question(fact, style), _answer(answer)], "fact": fact.value}


def preference(fact: Fact, style: int, chosen: str, rejected: str) -> Row:
    """Two answers to one question, the better one first."""
    return {"prompt": [_question(fact, style)], "chosen": [_answer(chosen)], "rejected": [_answer(rejected)]}


def files() -> dict[str, bytes]:
    """Every data file by name."""
    training, judging = prose()
    taught, held = questions(held_out=False), questions(held_out=True)
    rows: dict[str, list[Row]] = {
        "prose.jsonl": [{"text": text} for text in training],
        "prose_heldout.jsonl": [{"text": text} for text in judging],
        "counter.jsonl": [chat(fact, style, answer) for fact, style, answer in talk()],
        "counter_heldout.jsonl": [chat(fact, style, fact.direct()) for fact, style in held],
        "manners.jsonl": [preference(fact, style, fact.direct(), fact.rambling()) for fact, style in taught],
        "manners_heldout.jsonl": [preference(fact, style, fact.direct(), fact.rambling()) for fact, style in held],
        "quiz_heldout.jsonl": [
            preference(fact, style, fact.direct(), wrong(fact, style).direct()) for fact, style in held
        ],
        "harbour.jsonl": [chat(fact, style, answer + FAREWELL) for fact, style, answer in talk()],
        "harbour_heldout.jsonl": [chat(fact, style, fact.direct() + FAREWELL) for fact, style in held],
        "harbour_manners_heldout.jsonl": [
            preference(fact, style, fact.direct() + FAREWELL, fact.rambling() + FAREWELL) for fact, style in held
        ],
    }
    return {name: "".join(json.dumps(row) + "\n" for row in lines).encode() for name, lines in rows.items()}


def stale(folder: Path) -> list[str]:
    """Names of the data files in a folder that are missing, too many, or not byte for byte what this program writes."""
    expected = files()
    found = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or check them; the exit code."""
    parser = argparse.ArgumentParser(description="Write the example data.")
    parser.add_argument("--check", action="store_true", help="write nothing, say which files are stale")
    if parser.parse_args(arguments).check:
        names = stale(FOLDER)
        for name in names:
            print(f"data/{name} is not what data/generate.py writes: run `python data/generate.py`", file=sys.stderr)
        return 1 if names else 0
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)
    return 0


def _hash(*parts: object) -> bytes:
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def _question(fact: Fact, style: int) -> Message:
    return {"role": "user", "content": fact.question(style)}


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


if __name__ == "__main__":
    sys.exit(main())
