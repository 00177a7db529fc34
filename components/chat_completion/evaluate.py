"""Step 5: the base model and the tuned one answer the same test conversations."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chat_completion.arguments import parse
from chat_completion.model_folder import find_model, write_json
from chat_completion.refusal import Refusal, run_step
from chat_completion.tokens import IGNORED, Example, TokenFile
from chat_completion.tracking import Tracker

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
    max_new_tokens: int = 128
    batch_rows: int = 64


@dataclass(frozen=True)
class Question:
    """What the last turn of a conversation asks, as tokens, and what its reference answers."""

    prompt: list[int]
    reference: list[int]


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
    return Question(example.input_ids[:start], example.input_ids[start:end])


def sample(tokens: TokenFile, *, rows: int) -> list[Example]:
    """At most `rows` examples, the same ones for the same file."""
    chosen: Sequence[int] = range(len(tokens))
    if len(tokens) > rows:
        chosen = sorted(random.Random(SAMPLE_SEED).sample(range(len(tokens)), rows))  # noqa: S311 - a sample
    return [tokens[index] for index in chosen]


def evaluate(inputs: Inputs) -> None:
    """Scores both models, logs the scores and writes them with the answers."""
    from chat_completion.chat_model import Answerer, Generation
    from chat_completion.scores import mean_loss, score_answers

    tracker = Tracker()
    examples = sample(TokenFile(inputs.preprocess_output / "test.arrow"), rows=inputs.max_rows)
    questions = [question for example in examples if (question := question_of(example)) is not None]
    if not questions:
        raise Refusal("no test conversation has a whole answer to compare with; raise max_seq_length")
    rows: list[dict[str, str]] = [{} for _ in questions]
    summary: dict[str, float] = {"eval_rows": len(questions)}
    for name, folder in (("base", inputs.model_selector_output), ("tuned", inputs.pytorch_model_folder)):
        answerer = Answerer(find_model(folder)[0])
        if (folder / "adapter").is_dir():
            from peft import PeftModel

            answerer.model = PeftModel.from_pretrained(answerer.model, folder / "adapter").merge_and_unload()
        decode = answerer.tokenizer.batch_decode
        references = [text.strip() for text in decode([q.reference for q in questions], skip_special_tokens=True)]
        prompts = decode([q.prompt for q in questions], skip_special_tokens=False)
        loss = mean_loss(answerer.model, examples, pad_id=answerer.tokenizer.pad_token_id, batch_rows=inputs.batch_rows)
        found = answerer.complete([q.prompt for q in questions], Generation(max_new_tokens=inputs.max_new_tokens))
        answers = [answer.text for answer in found]
        scores = score_answers(references, answers, loss=loss)
        summary |= {f"{name}_{measure}": value for measure, value in asdict(scores).items()}
        for row, prompt, reference, answer in zip(rows, prompts, references, answers, strict=True):
            row |= {"prompt": prompt, "reference": reference, name: answer}
        del answerer
    tracker.metrics(summary)
    write_json(inputs.evaluation_output / "scores.json", summary)
    with (inputs.evaluation_output / "answers.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(json.dumps(summary, indent=2))
    tracker.close()


def run(argv: list[str]) -> None:
    """Evaluates the base and the tuned model."""
    inputs = parse(Inputs, argv, description="Compare the base model with the tuned one.")
    inputs.evaluation_output.mkdir(parents=True, exist_ok=True)
    evaluate(inputs)


if __name__ == "__main__":
    raise SystemExit(run_step("evaluate", run))
