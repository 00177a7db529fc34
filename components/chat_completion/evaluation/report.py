"""What the evaluation found, for people: one HTML page that needs nothing beside it, and the same in Markdown."""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_completion.evaluation.scores import Scores, rouge_l

MOST_CHANGED = 20
GENERAL_CHANGED = 10
CUT = 4000
"""Characters of one text that the report shows."""

PAGE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Row:
    """One question with its reference and both models' answers."""

    prompt: str
    reference: str
    base: str
    tuned: str


@dataclass(frozen=True)
class Comparison:
    """Both models on one set of conversations.

    Attributes:
        name: `test` or `general`.
        base: the base model's scores.
        tuned: the tuned model's.
        interval: 95 % interval of the change of the loss.
        losses: each conversation's loss, before and after.
        short: rows whose reference is short, which exact match is taken over.
        rows: the questions.
    """

    name: str
    base: Scores
    tuned: Scores
    interval: tuple[float, float]
    losses: tuple[tuple[float, float], ...]
    short: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class Measure:
    """How one score is shown: its words, its form, and whether more or less of it is better."""

    name: str
    title: str
    form: str
    better: int

    def text(self, value: float) -> str:
        """A value; a dash for what was not measured."""
        return f"{value:{self.form}}" if math.isfinite(value) else "–"


MEASURES = (
    Measure("loss", "loss (nats per answer token)", ".4f", -1),
    Measure("perplexity", "perplexity", ".4g", -1),
    Measure("rouge_l", "ROUGE-L", ".4f", 1),
    Measure("exact_match", "exact match, short references", ".1%", 1),
    Measure("answer_tokens", "tokens per answer", ".1f", 0),
    Measure("unfinished", "cut off by the limit of tokens", ".1%", -1),
    Measure("empty", "empty answers", ".1%", -1),
    Measure("repetition", "repeated four-word phrases", ".1%", -1),
)
SETS = {
    "test": ("Test split", "What the training was for."),
    "general": (
        "General chats",
        "What the model could do before, and should still be able to do: its loss is forgetting.",
    ),
}


def table(comparison: Comparison) -> list[dict[str, str]]:
    """One line per measure: base, tuned, the change, and whether it is for the better."""
    lines = []
    for measure in MEASURES:
        before, after = getattr(comparison.base, measure.name), getattr(comparison.tuned, measure.name)
        change = after - before
        verdict = ""
        if measure.better and math.isfinite(change) and measure.text(before) != measure.text(after):
            verdict = "better" if change * measure.better > 0 else "worse"
        broken = math.isfinite(before) and not math.isfinite(after)
        text = f"{change:+{measure.form}}" if math.isfinite(change) else "–"
        if measure.name == "loss" and all(map(math.isfinite, comparison.interval)):
            text += f" ({comparison.interval[0]:+.4f} … {comparison.interval[1]:+.4f})"
        lines.append(
            {
                "title": measure.title,
                "base": measure.text(before),
                "change": text,
                "tuned": "no number" if broken else measure.text(after),
                "verdict": "worse" if broken else verdict,
            }
        )
    return lines


def most_changed(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows whose answers are least alike before and after; those that did not change are left out."""
    alike = [(rouge_l(row.base, row.tuned), index) for index, row in enumerate(rows) if row.base != row.tuned]
    return [rows[index] for _, index in sorted(alike)[:count]]


def diff_words(text: str, reference: str) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether the reference has it at that place; compared by words."""
    pieces, others = re.findall(r"\s*\S+", text), re.findall(r"\S+", reference)
    matcher = difflib.SequenceMatcher(a=[piece.strip() for piece in pieces], b=others, autojunk=False)
    runs: list[tuple[str, bool]] = []
    position = 0
    for start, _, size in matcher.get_matching_blocks():
        for run, same in ((pieces[position:start], False), (pieces[start : start + size], True)):
            if run:
                runs.append(("".join(run), same))
        position = start + size
    return runs


def points(losses: Sequence[tuple[float, float]], *, size: int = 260, edge: int = 34) -> dict[str, Any]:
    """Where each conversation stands in a square of its loss before (across) and after (upwards), in pixels."""
    pairs = [(before, after) for before, after in losses if math.isfinite(before) and math.isfinite(after)]
    top = max((value for pair in pairs for value in pair), default=0.0) * 1.05 or 1.0
    span = size - 2 * edge
    dots = [(edge + before / top * span, size - edge - after / top * span) for before, after in pairs]
    worse = sum(after > before for before, after in pairs)
    return {"size": size, "edge": edge, "top": top, "dots": dots, "worse": worse, "count": len(pairs)}


def truncate(text: str) -> str:
    """A text that fits on a page."""
    return text if len(text) <= CUT else f"{text[:CUT]} … ({len(text) - CUT} more characters)"


def sections(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The parts of the report."""
    entries = []
    for comparison in comparisons:
        title, note = SETS[comparison.name]
        limit = MOST_CHANGED if comparison.name == "test" else GENERAL_CHANGED
        changed = [
            Row(*(truncate(text) for text in (row.prompt, row.reference, row.base, row.tuned)))
            for row in most_changed(comparison.rows, limit)
        ]
        entries.append(
            {
                "title": title,
                "note": note,
                "rows": len(comparison.rows),
                "short": comparison.short,
                "table": table(comparison),
                "changed": changed,
                "points": points(comparison.losses),
                "same": sum(row.base == row.tuned for row in comparison.rows),
            }
        )
    return entries


def html(comparisons: Sequence[Comparison]) -> str:
    """The page. Every text that a model or a data set wrote is escaped."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        PAGE.read_text(encoding="utf-8")
    )
    return page.render(sections=sections(comparisons), diff_words=diff_words)


def code_block(text: str) -> str:
    """A text as a block of code, whose fence is longer than any that stands in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The same for a job summary or a pull request."""
    lines = ["# Evaluation: base and tuned", ""]
    for part in sections(comparisons):
        lines += [f"## {part['title']}", "", f"{part['note']} {counts(part)}", ""]
        lines += ["| measure | base | tuned | change | |", "|---|---:|---:|---:|---|"]
        lines += ["| {title} | {base} | {tuned} | {change} | {verdict} |".format(**line) for line in part["table"]]
        lines.append("")
        for number, row in enumerate(part["changed"], start=1):
            lines += [f"### {part['title']}, most changed {number}", ""]
            for name in ("prompt", "reference", "base", "tuned"):
                lines += [f"**{name}**", "", code_block(getattr(row, name)), ""]
    return "\n".join(lines)


def counts(part: dict[str, Any]) -> str:
    """How much was asked, in a sentence."""
    return (
        f"{part['rows']} conversations, {part['short']} with a short reference; {part['same']} answers did not change, "
        f"the loss rose in {part['points']['worse']} of {part['points']['count']}."
    )


def write_report(folder: Path, comparisons: Sequence[Comparison]) -> None:
    """Writes `report.html` and `report.md`."""
    (folder / "report.html").write_text(html(comparisons), encoding="utf-8")
    (folder / "report.md").write_text(markdown(comparisons), encoding="utf-8")
