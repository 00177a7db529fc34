"""mlops payload build, validate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, command, epilog

if TYPE_CHECKING:
    from mlops.cli.violations import Violation


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=epilog("""
mlops payload build
mlops payload validate data/payloads/*.json
"""),
)
def payload() -> None:
    """Build and validate scoring requests."""


@command(
    group=payload,
    example="""
mlops payload build                                # sample_score.json of one row of test_gen
mlops payload build --seed 7 --output request.json
mlops payload build --data .mlops/data/HASH --split test_sft
""",
)
@click.option("--data", "folder", type=click.Path(path_type=Path), help="A folder that `mlops data prepare` wrote.")
@click.option("--split", default="test_gen", show_default=True, help="The split to draw the row from.")
@click.option("--seed", type=int, help="Draws the row.  [default: data.seed of mlops.yaml]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("sample_score.json"),
    show_default=True,
    help="Output file.",
)
def build(run: Run, folder: Path | None, split: str, seed: int | None, output: Path) -> None:
    """Write the scoring request for a random row."""
    import os

    from mlops.cli.data import prepared
    from mlops.core.errors import UsageError
    from mlops.data.payload import sample
    from mlops.data.reading import read

    data_set = prepared(run, folder)
    file = data_set.folder / f"{split}.jsonl"
    if not file.is_file():
        raise UsageError(f"'{data_set.folder}' has no split '{split}'; it has {', '.join(data_set.rows)}")
    rows = [json.loads(line) for _, line in read(file) if isinstance(line, bytes)]
    request = sample(rows, seed=run.settings.data.seed if seed is None else seed)
    text = json.dumps(request, indent=2, ensure_ascii=False) + "\n"
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder '{output.parent}' to write '{output.name}' to")
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(output)
    run.console.say(f"written to {output}")
    run.console.result({"file": output, "split": split, "payload": request}, text, outputs={"payload": str(output)})


@command(group=payload, example="mlops payload validate data/payloads/*.json sample_score.json")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_context
def validate(context: click.Context, run: Run, files: tuple[Path, ...]) -> None:
    """Validate scoring requests against the server's schema; exit code 4 if one is invalid."""
    from rich.text import Text

    from mlops.cli.violations import tell_github
    from mlops.core.errors import DataInvalid
    from mlops.data.payload import Problem, check

    problems: list[Problem] = []
    lines: list[str] = []
    results: list[dict[str, Any]] = []
    for file in files:
        _, file_problems = check(file)
        problems.extend(file_problems)
        results.append({"file": file, "valid": not file_problems, "problems": file_problems})
        lines.append(f"{'✕' if file_problems else '✓'} {file}")
        lines.extend(f"  {problem}" for problem in file_problems)
    run.console.result(
        {"valid": not problems, "files": results}, Text("\n".join(lines)), outputs={"valid": str(not problems).lower()}
    )
    tell_github(run.console, worst_first(results), what="Payloads")
    if problems:
        bad = sum(not result["valid"] for result in results)
        run.console.err.print(f"[red]✕[/red] {bad} of {len(files)} payloads are not valid")
        context.exit(DataInvalid.exit_code)


def worst_first(results: list[dict[str, Any]]) -> list[Violation]:
    """Files that cannot be read as a payload at all, then the first problem of each file, the second, and so on."""
    from mlops.cli.violations import Violation

    ranked = [
        (bool(problem.field), turn, Violation(problem.place, f"{problem.field} {problem.message}".strip()))
        for result in results
        for turn, problem in enumerate(result["problems"])
    ]
    return [violation for *_, violation in sorted(ranked, key=lambda item: item[:2])]
