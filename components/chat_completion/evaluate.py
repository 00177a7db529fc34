"""Step 5: the base model and the tuned one answer the same conversations.

They are the test split's, which say what the training has brought, and a small set of general ones, which say what it
has cost. Whether that is enough is not decided here: `mlops register` holds the numbers against its thresholds.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_completion.common.arguments import parse
from chat_completion.common.model_folder import find_model, write_json
from chat_completion.common.refusal import Refusal, run_step
from chat_completion.common.tracking import Tracker
from chat_completion.data.general import general_examples
from chat_completion.data.tokens import IGNORED, Example, TokenFile
from chat_completion.evaluation.report import Comparison, Row, write_report
from chat_completion.evaluation.scores import (
    CompletionLike,
    Losses,
    change_interval,
    is_short,
    measure_losses,
    score_answers,
)

SAMPLE_SEED = 42


@dataclass(frozen=True)
class Inputs:
    """What is compared, and on how much of the test split.

    Attributes:
        max_rows: most conversations to score; a larger split is sampled.
        max_new_tokens: longest answer.
        batch_rows: conversations per step on the device.
    """

    preprocess_output: Path
    model_selector_output: Path
    pytorch_model_folder: Path
    evaluation_output: Path
    max_rows: int = 200
    max_new_tokens: int = 256
    batch_rows: int = 64


@dataclass(frozen=True)
class Question:
    """What the last turn of a conversation asks, as tokens, and what its reference answers."""

    prompt: list[int]
    reference: list[int]


@dataclass(frozen=True)
class QuestionSet:
    """A set of conversations: all of them for the loss, and those whose last answer is whole to be asked."""

    name: str
    examples: list[Example]
    questions: list[Question]


@dataclass(frozen=True)
class ModelOutput:
    """What one model made of a set."""

    losses: Losses
    answers: Sequence[CompletionLike]


def question_of(example: Example) -> Question | None:
    """Cuts a conversation before its last answer; None where that answer is not whole."""
    if example.truncated:
        return None
    end = len(example.labels)
    while end and example.labels[end - 1] == IGNORED:
        end -= 1
    start = end
    while start and example.labels[start - 1] != IGNORED:
        start -= 1
    if not start or start == end:
        return None
    return Question(list(example.input_ids[:start]), list(example.input_ids[start:end]))


def question_set(name: str, examples: list[Example]) -> QuestionSet:
    """A set with its questions."""
    return QuestionSet(
        name, examples, [question for example in examples if (question := question_of(example)) is not None]
    )


def sample(tokens: TokenFile, *, rows: int) -> list[Example]:
    """At most `rows` examples, the same ones for the same file."""
    chosen: Sequence[int] = range(len(tokens))
    if len(tokens) > rows:
        chosen = sorted(random.Random(SAMPLE_SEED).sample(range(len(tokens)), rows))  # noqa: S311 - a sample
    return [tokens[index] for index in chosen]


def load(folder: Path) -> Any:
    """A model that answers; an adapter beside its weights is merged into them."""
    from chat_completion.chat_model import Answerer

    answerer = Answerer(find_model(folder)[0])
    if (folder / "adapter").is_dir():
        from peft import PeftModel

        answerer.model = PeftModel.from_pretrained(answerer.model, folder / "adapter").merge_and_unload()
    return answerer


def examine(answerer: Any, dataset: QuestionSet, inputs: Inputs) -> ModelOutput:
    """Takes a model's loss on a set, and its answers."""
    from chat_completion.chat_model import Generation

    losses = measure_losses(
        answerer.model, dataset.examples, pad_id=answerer.tokenizer.pad_token_id, batch_rows=inputs.batch_rows
    )
    longest = Generation(max_new_tokens=inputs.max_new_tokens)
    return ModelOutput(losses, answerer.complete([question.prompt for question in dataset.questions], longest))


def compare(
    dataset: QuestionSet, texts: Sequence[tuple[str, str]], base: ModelOutput, tuned: ModelOutput
) -> Comparison:
    """Puts both models' answers to a set side by side.

    Args:
        dataset: the set.
        texts: each question's prompt and reference.
        base: what the base model made of it.
        tuned: what the tuned one did.
    """
    references = [reference for _, reference in texts]
    rows = [
        Row(prompt, reference, before.text, after.text)
        for (prompt, reference), before, after in zip(texts, base.answers, tuned.answers, strict=True)
    ]
    return Comparison(
        name=dataset.name,
        base=score_answers(references, base.answers, loss=base.losses.mean),
        tuned=score_answers(references, tuned.answers, loss=tuned.losses.mean),
        interval=change_interval(base.losses, tuned.losses),
        losses=tuple(zip(base.losses.each, tuned.losses.each, strict=True)),
        short=sum(map(is_short, references)),
        rows=rows,
    )


def evaluate(inputs: Inputs) -> list[Comparison]:
    """Asks both models both sets."""
    import torch

    test = question_set("test", sample(TokenFile(inputs.preprocess_output / "test.arrow"), rows=inputs.max_rows))
    if not test.questions:
        raise Refusal("no test conversation has a whole answer to compare with; raise max_seq_length")
    sets, texts, outputs = [test], [], {}
    for name, folder in (("base", inputs.model_selector_output), ("tuned", inputs.pytorch_model_folder)):
        answerer = load(folder)
        if name == "base":
            tokenizer = find_model(folder)[1]
            general = question_set(
                "general", general_examples(tokenizer, limit=answerer.context - inputs.max_new_tokens)
            )
            sets += [general] if general.questions else []
            texts = [read_texts(answerer.tokenizer, dataset.questions) for dataset in sets]
        outputs[name] = [examine(answerer, dataset, inputs) for dataset in sets]
        del answerer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return [compare(*row) for row in zip(sets, texts, outputs["base"], outputs["tuned"], strict=True)]


def read_texts(tokenizer: Any, questions: Sequence[Question]) -> list[tuple[str, str]]:
    """Each question's prompt, with the marks of its turns, and its reference."""
    prompts = tokenizer.batch_decode([question.prompt for question in questions], skip_special_tokens=False)
    references = tokenizer.batch_decode([question.reference for question in questions], skip_special_tokens=True)
    return [(prompt.strip(), reference.strip()) for prompt, reference in zip(prompts, references, strict=True)]


def summarise(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """All scores under one name each; those of the general set with `general_` before the measure.

    What is not a number is left out: a measure that nothing was measured for.
    """
    summary: dict[str, float] = {}
    for comparison in comparisons:
        mark = "" if comparison.name == "test" else f"{comparison.name}_"
        summary |= {"eval_rows" if not mark else f"{mark}rows": len(comparison.rows)}
        for model, scores in (("base", comparison.base), ("tuned", comparison.tuned)):
            summary |= {f"{model}_{mark}{measure}": value for measure, value in asdict(scores).items()}
        low, high = comparison.interval
        change = {"change": comparison.tuned.loss - comparison.base.loss, "change_low": low, "change_high": high}
        summary |= {f"{mark}loss_{name}": value for name, value in change.items()}
    return {name: value for name, value in summary.items() if math.isfinite(value)}


def run(argv: list[str]) -> None:
    """Evaluates the base and the tuned model: scores to MLflow, scores, answers and a report into the output."""
    inputs = parse(Inputs, argv, description="Compare the base model with the tuned one.")
    inputs.evaluation_output.mkdir(parents=True, exist_ok=True)
    tracker = Tracker()
    comparisons = evaluate(inputs)
    summary = summarise(comparisons)
    tracker.metrics(summary)
    with (inputs.evaluation_output / "answers.jsonl").open("w", encoding="utf-8") as lines:
        for comparison in comparisons:
            rows = ({"set": comparison.name, **asdict(row)} for row in comparison.rows)
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_report(inputs.evaluation_output, comparisons)
    write_json(inputs.evaluation_output / "scores.json", summary)
    print(json.dumps(summary, indent=2))
    tracker.close()


if __name__ == "__main__":
    raise SystemExit(run_step("evaluate", run))
