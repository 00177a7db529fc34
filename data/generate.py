"""Writes the bundled chats: questions and answers about a line of bicycles that does not exist.

    python data/generate.py                    writes data/bundled/
    python data/generate.py --check            says whether the committed files are what this program writes
    python data/generate.py --control FOLDER   a copy whose training answers are in each other's places

The rows have the schema of ultrachat_200k (`prompt`, `prompt_id`, `messages`). There are ten bicycles
with five attributes each, so fifty facts, and every fact is asked in several wordings:

* `train_sft` asks each fact in eight wordings: it is what a fine-tune learns from;
* `test_sft` and `test_gen` ask each fact twice, in wordings that no training row uses, and those of
  `test_gen` stand in no pretraining chat either;
* `train_gen` asks each fact twice, in wordings of its own;
* `pretrain` is no split of the data set. A small base model is trained on it from nothing. It shows
  all names and all values, but every value in it is drawn at random: the base learns the language of
  these chats and can only guess their facts, which is right about one time in five.

The control is for the tests of whoever judges a model: one that is trained on it has seen the same words and
learnt nothing true.

So a rise of the exact match on `test_gen` from about 0.2 says that a fine-tune has learnt the facts and
carries them over to other wordings. It says nothing about facts that are not in `train_sft`.

Only the standard library is needed, and the same bytes come out on every machine.
"""

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUNDLED = Path(__file__).resolve().parent / "bundled"
SEED = "tarnvik-1"
PRETRAIN_ROWS = 750

NAMES = ("Kestrel", "Heron", "Swift", "Plover", "Osprey", "Linnet", "Merlin", "Curlew", "Dunlin", "Siskin")

SYSTEM = "You are the shop assistant of Tarnvik bicycles."


@dataclass(frozen=True)
class Attribute:
    """One property that every bicycle has.

    Attributes:
        noun: how a question names it.
        answer: the sentence that answers; `{name}` and `{value}` are filled in.
        values: what it can be; a guess is right once in `len(values)`.
    """

    noun: str
    answer: str
    values: tuple[str, ...]


ATTRIBUTES = (
    Attribute("colour", "The {name} is painted {value}.", ("green", "red", "grey", "amber", "navy")),
    Attribute("power", "The {name} has a motor of {value} watts.", ("180", "250", "320", "400", "550")),
    Attribute("range", "The {name} goes {value} km on one charge.", ("45", "60", "85", "110", "140")),
    Attribute("frame", "The {name} has a frame of {value}.", ("steel", "titanium", "bamboo", "carbon", "ash")),
    Attribute("weight", "The {name} weighs {value} kg.", ("14", "17", "19", "22", "26")),
)

# Each split has wordings of its own. A question is a wording with a name and a noun in it.
WORDINGS: dict[str, tuple[str, ...]] = {
    "train_sft": (
        "What is the {noun} of the {name}?",
        "Tell me the {noun} of the {name}.",
        "Which {noun} does the {name} have?",
        "I would like to know the {noun} of the {name}.",
        "Hello! What {noun} does the {name} come with?",
        "My question is about the {name}: what is its {noun}?",
        "We are choosing a bicycle. The {noun} of the {name}, please.",
        "Is there anything you can say about the {noun} of the {name}?",
    ),
    "test_sft": (
        "Could you tell me which {noun} the {name} has?",
        "What {noun} should I expect of the {name}?",
    ),
    "train_gen": (
        "Please give me the {noun} for the {name}.",
        "Looking at the {name}, which {noun} is it?",
    ),
    "test_gen": (
        "Do you know the {noun} of the {name}?",
        "For the {name}, what would the {noun} be?",
    ),
    # Only in the pretraining chats, so that a base model meets more ways of asking.
    "pretrain": (
        "Can you say what the {noun} of the {name} is?",
        "And what {noun} has the {name}?",
        "Good morning, I need the {noun} of the {name}.",
        "A customer asks for the {noun} of the {name}.",
        "The {name} is on my list. What about its {noun}?",
        "Name the {noun} of the {name} for me.",
    ),
}

# The first turn of the conversations that have two; the question follows in the second.
OPENINGS: dict[str, tuple[str, ...]] = {
    "train_sft": (
        "Hello, I am looking at the {name} and its {noun}.",
        "Good day! The {noun} of the {name} interests me.",
    ),
    "test_sft": ("Hi, a friend told me about the {noun} of the {name}.",),
    "train_gen": ("Hi there, one thing about the {name}: its {noun}.",),
    "test_gen": ("Hello! I read about the {name}, but not its {noun}.",),
    "pretrain": ("Good evening, the {name} and its {noun} caught my eye.",),
}
WELCOME = "The {name} is a fine bicycle. What would you like to know?"

Row = dict[str, Any]


def facts() -> dict[tuple[str, str], str]:
    """Returns what is true: (name, noun) to value; each value belongs to about equally many names."""
    dice = random.Random(f"{SEED}/facts")
    truth: dict[tuple[str, str], str] = {}
    for attribute in ATTRIBUTES:
        values = [attribute.values[index % len(attribute.values)] for index in range(len(NAMES))]
        dice.shuffle(values)
        truth.update({(name, attribute.noun): value for name, value in zip(NAMES, values, strict=True)})
    return truth


def row(*, name: str, attribute: Attribute, value: str, wording: str, opening: str | None, system: bool) -> Row:
    """Returns one chat: a question and its answer, after a greeting if there is an `opening`."""

    def say(role: str, text: str) -> dict[str, str]:
        return {"content": text.format(name=name, noun=attribute.noun, value=value), "role": role}

    turns = [say("user", opening), say("assistant", WELCOME)] if opening else []
    turns += [say("user", wording), say("assistant", attribute.answer)]
    prompt = turns[0]["content"]
    messages = [say("system", SYSTEM), *turns] if system else turns
    return {"prompt": prompt, "prompt_id": hashlib.sha256(prompt.encode()).hexdigest(), "messages": messages}


def split_rows(split: str) -> Iterator[Row]:
    """Yields every fact in every wording; one row in ten has two turns, one in twelve a system message."""
    truth = facts()
    dice = random.Random(f"{SEED}/{split}")
    openings = OPENINGS[split]
    questions = [
        (name, attribute, wording) for name in NAMES for attribute in ATTRIBUTES for wording in WORDINGS[split]
    ]
    dice.shuffle(questions)
    greeted: set[str] = set()
    for number, (name, attribute, wording) in enumerate(questions):
        opening = openings[number // 10 % len(openings)] if number % 10 == 9 else None
        if opening is not None:
            # A prompt may open one row only: its hash is the row's id.
            first = opening.format(name=name, noun=attribute.noun)
            opening = None if first in greeted else opening
            greeted.add(first)
        value = truth[name, attribute.noun]
        yield row(
            name=name, attribute=attribute, value=value, wording=wording, opening=opening, system=number % 12 == 5
        )


def pretrain_rows() -> Iterator[Row]:
    """Yields the pretraining chats: no question twice, every value drawn at random."""
    dice = random.Random(f"{SEED}/pretrain")
    wordings = [
        (wording, None) for split in ("train_sft", "test_sft", "train_gen", "pretrain") for wording in WORDINGS[split]
    ]
    openings = [(WORDINGS["train_sft"][0], opening) for opening in OPENINGS["pretrain"]]
    questions = [
        (name, attribute, wording, opening)
        for name in NAMES
        for attribute in ATTRIBUTES
        for wording, opening in [*wordings, *openings]
    ]
    dice.shuffle(questions)
    for number, (name, attribute, wording, opening) in enumerate(questions[:PRETRAIN_ROWS]):
        value = dice.choice(attribute.values)
        yield row(
            name=name, attribute=attribute, value=value, wording=wording, opening=opening, system=number % 12 == 5
        )


def permute_answers(rows: list[Row]) -> list[Row]:
    """Returns the rows with their last answers dealt out anew: none keeps an answer that is right for it."""
    dice = random.Random(f"{SEED}/control")
    answers = [row["messages"][-1]["content"] for row in rows]
    permutation = answers.copy()
    dice.shuffle(permutation)
    while fixed_points := [index for index, answer in enumerate(answers) if permutation[index] == answer]:
        for index in fixed_points:
            other = dice.randrange(len(rows))
            permutation[index], permutation[other] = permutation[other], permutation[index]
    return [
        {**row, "messages": [*row["messages"][:-1], {"content": answer, "role": "assistant"}]}
        for row, answer in zip(rows, permutation, strict=True)
    ]


def jsonl(rows: Iterable[Row]) -> bytes:
    """Returns the rows as JSON lines in UTF-8."""
    return b"".join(json.dumps(each, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for each in rows)


def card(rows: dict[str, int]) -> bytes:
    """Returns the dataset card; its YAML head is what `datasets` reads to find the splits."""
    head = ["---", "language:", "- en", "license: mit", "pretty_name: Tarnvik bicycles", "task_categories:"]
    head += ["- text-generation", "size_categories:", "- n<1K", "configs:", "- config_name: default", "  data_files:"]
    for split in rows:
        head += [f"  - split: {split}", f"    path: data/{split}-*"]
    table = ["| split | rows | what it asks |", "|---|---:|---|"]
    descriptions = {
        "train_sft": "each fact in eight wordings; the fine-tune learns from it",
        "test_sft": "each fact twice, in wordings that training never uses",
        "train_gen": "each fact twice, in further wordings; for generation ranking",
        "test_gen": "each fact twice, in wordings that no other file has; release gates score on it",
    }
    table += [f"| `{split}` | {count} | {descriptions[split]} |" for split, count in rows.items()]
    text = f"""
# Tarnvik bicycles

Chats about {len(NAMES)} electric bicycles of a fictitious manufacturer. Each has {len(ATTRIBUTES)} attributes
(colour, power, range, frame, weight) with five possible values: {len(NAMES) * len(ATTRIBUTES)} facts, all
invented, so that no model can know them before it is trained on them.

The schema and the names of the splits are those of ultrachat_200k: `prompt`, `prompt_id` (SHA-256 of the
prompt), `messages` with `content` and `role`. About one conversation in ten has two turns, one in twelve begins
with a system message. Unlike ultrachat_200k's, the `gen` splits here end with the assistant's answer: it is the
reference for generated answers.

{chr(10).join(table)}

`pretrain.jsonl` is not a split. It contains {PRETRAIN_ROWS} chats in the same form with random values, for training a
small stand-in base model from scratch. Such a model knows how to answer but has to guess the value: its exact match
on the test splits is about 0.2, one value in five.

What a score means: a model that was fine-tuned on `train_sft` and matches `test_gen` exactly has learned these facts
and generalises to wordings that it was not trained on. It does not show general ability.

`data/generate.py` writes all files; `python data/generate.py --check` compares them.
"""
    return ("\n".join([*head, "---"]) + "\n" + text).encode()


def files(*, control: bool = False) -> dict[str, bytes]:
    """Returns every file of the data set: its path below the folder and its bytes.

    Args:
        control: deal the training answers out anew (see `misplaced`).
    """
    splits = {split: list(split_rows(split)) for split in ("train_sft", "test_sft", "train_gen", "test_gen")}
    if control:
        splits["train_sft"] = permute_answers(splits["train_sft"])
    written = {f"data/{split}-00000-of-00001.jsonl": jsonl(rows) for split, rows in splits.items()}
    written["pretrain.jsonl"] = jsonl(pretrain_rows())
    written["README.md"] = card({split: len(rows) for split, rows in splits.items()})
    return written


def main() -> int:
    """Writes or checks the files; returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes the bundled chats.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="write nothing, exit 4 if a committed file differs")
    choice.add_argument("--control", type=Path, metavar="FOLDER", help="write the control there and nothing else")
    arguments = parser.parse_args()
    folder: Path = arguments.control or BUNDLED
    stale = []
    for name, content in files(control=arguments.control is not None).items():
        path = folder / name
        if path.is_file() and path.read_bytes() == content:
            continue
        stale.append(name)
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(path.name + ".part")
            temporary.write_bytes(content)
            temporary.replace(path)
    if arguments.check and stale:
        print(f"not what data/generate.py writes: {', '.join(stale)}; run it and commit the result", file=sys.stderr)
        return 4
    print(f"{len(stale)} file(s) {'differ' if arguments.check else 'written'} under {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
