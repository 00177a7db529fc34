"""mlops data prepare, validate, preview."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, command, epilog, option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlops.cli.violations import Violation
    from mlops.data import Prepared, Report, Request
    from mlops.training.submit import TrainingData

BAR = 30


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=epilog("""
mlops data prepare
mlops data validate data/bundled
mlops data preview --rows 1
"""),
)
def data() -> None:
    """Prepare, validate and preview the chats."""


def _row_limit(function: Any) -> Any:
    return click.option(
        "--max-row-mb",
        type=click.FloatRange(min=0, min_open=True),
        default=10,
        show_default=True,
        help="Longest row, in MB; a longer one is invalid.",
    )(function)


@command(
    group=data,
    example="""
mlops data prepare                                          # what mlops.yaml says
mlops data prepare --dataset data/bundled --percent 100     # all of every split
mlops data prepare --way cut --percent 1                    # 1 % of train_sft, cut 80/20
mlops data prepare --dataset chats/ --output out --drop-invalid
""",
)
@option("--dataset", help="A name on the hub, a folder or a file.  [default: data.dataset of mlops.yaml]")
@option("--revision", help="Branch, tag or commit on the hub.")
@option("--percent", type=float, help="How much of each split, from its beginning.  [default: data.percent]")
@option(
    "--way",
    type=click.Choice(["splits", "cut"]),
    help="splits: a share of every split · cut: one split 80/20 into train and test.  [default: data.way]",
)
@option("--seed", type=int, help="Decides the cut.  [default: data.seed]")
@option("--train-split", help="The split that is cut.  [default: data.train_split]")
@option("--output", type=click.Path(path_type=Path), help="The folder to write.  [default: .mlops/data/HASH]")
@click.option("--drop-invalid", is_flag=True, help="Drop invalid rows (listed in rejected.jsonl) instead of failing.")
@click.option("--derive", is_flag=True, help="Derive a missing prompt and prompt_id from the messages.")
@_row_limit
def prepare(
    run: Run,
    dataset: str | None,
    revision: str | None,
    percent: float | None,
    way: str | None,
    seed: int | None,
    train_split: str | None,
    output: Path | None,
    drop_invalid: bool,
    derive: bool,
    max_row_mb: float,
) -> None:
    """Write validated split files and a manifest.

    The folder is named after its content; the same input gives the same bytes, and a second call does nothing.
    """
    from dataclasses import replace

    request, root = request_of(run)
    if dataset is not None:
        request, root = replace(request, dataset=dataset, revision=None), Path()
    given: dict[str, Any] = {
        "revision": revision,
        "percent": percent,
        "way": way,
        "seed": seed,
        "train_split": train_split,
    }
    request = replace(
        request,
        **{name: value for name, value in given.items() if value is not None},
        drop_invalid=drop_invalid,
        derive=derive,
        max_row_bytes=int(max_row_mb * 1e6),
    )
    split_files = _prepare(run, request, root=root, output=output)
    manifest = split_files.manifest
    outputs = {"folder": str(split_files.folder), "content_hash": manifest.content_hash, "rows": str(manifest.rows)}
    run.console.result(
        {
            "folder": split_files.folder,
            "repeated": split_files.repeated,
            "manifest": manifest,
            "report": split_files.report,
        },
        _prepared_text(split_files),
        outputs=outputs,
        summary=_prepared_markdown(split_files),
    )


@command(
    group=data,
    example="""
mlops data validate data/bundled
mlops data validate chats/train_sft.jsonl chats/test_sft.jsonl --json
""",
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--derive", is_flag=True, help="Accept rows without prompt or prompt_id.")
@_row_limit
@click.pass_context
def validate(context: click.Context, run: Run, paths: tuple[Path, ...], derive: bool, max_row_mb: float) -> None:
    """Validate every row of folders and files; exit code 4 if a row is invalid."""
    from mlops.cli.violations import tell_github
    from mlops.core.errors import DataInvalid
    from mlops.data import validate as check

    report = check(paths, derive=derive, max_row_bytes=int(max_row_mb * 1e6), console=run.console)
    result = {"valid": not report.violations, "rows": report.rows, "invalid": report.invalid, "report": report}
    run.console.result(result, report_text(report), outputs={"valid": str(not report.violations).lower()})
    violations = worst_first(report)
    count = sum(violation.count for violation in report.violations)
    what = ", ".join(str(path) for path in paths)
    tell_github(run.console, violations, what=f"Chats of {what}", unlisted=count - len(violations))
    if report.violations:
        run.console.err.print(f"[red]✕[/red] {report.totals}")
        context.exit(DataInvalid.exit_code)


def worst_first(report: Report) -> list[Violation]:
    """The first row of each rule in the rules' order, then the second of each, and so on: every rule is seen."""
    from mlops.cli.violations import Violation

    most = max((len(violation.rows) for violation in report.violations), default=0)
    return [
        Violation(violation.rows[turn][0], f"{violation.rule}: {violation.rows[turn][1]}")
        for turn in range(most)
        for violation in report.violations
        if turn < len(violation.rows)
    ]


@command(group=data, example="mlops data preview --dataset data/bundled --split test_gen --rows 2")
@click.option("--dataset", help="A name on the hub, a folder or a file.  [default: data.dataset of mlops.yaml]")
@click.option("--revision", help="Branch, tag or commit on the hub.")
@click.option("--rows", type=click.IntRange(min=1), default=3, show_default=True, help="Rows per split.")
@click.option("--split", "splits", multiple=True, help="Only this split (may be repeated).")
def preview(run: Run, dataset: str | None, revision: str | None, rows: int, splits: tuple[str, ...]) -> None:
    """Show the first rows of each split."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    from mlops.data.preview import preview as preview_splits

    root = Path()
    if dataset is None:
        request, root = request_of(run)
        dataset, revision = request.dataset, revision or request.revision
    split_previews = preview_splits(dataset, revision=revision, rows=rows, splits=splits, root=root)
    blocks: list[RenderableType] = []
    for part in split_previews:
        blocks.append(Text.from_markup(f"[bold]{escape(part.split)}[/bold] [dim]{escape(str(part.file))}[/dim]"))
        for row in part.rows:
            blocks.extend(_row_text(row))
            blocks.append(Text())
    run.console.result(split_previews, Group(*blocks))


# -- shared with `mlops train` and `mlops run` -------------------------------------------------------------------------


def request_of(run: Run) -> tuple[Request, Path]:
    """What the settings ask for, and where their relative paths begin."""
    from mlops.data import Request

    data = run.settings.data
    request = Request(
        dataset=data.dataset,
        revision=data.revision,
        way=data.way,
        percent=data.percent,
        seed=data.seed,
        train_split=data.train_split,
    )
    return request, run.settings.root


def prepared(run: Run, folder: Path | None) -> TrainingData:
    """The data to train on: a folder that was prepared, or what the settings say, prepared now."""
    from mlops.data import recorded
    from mlops.training.submit import TrainingData

    if folder is None:
        request, root = request_of(run)
        dataset = _prepare(run, request, root=root, output=None)
    else:
        dataset = recorded(folder)
    return TrainingData(
        train=dataset.file(run.settings.data.train_split, or_first=True),
        test=dataset.file(run.settings.data.test_split, or_first=False),
        content_hash=dataset.manifest.content_hash,
        folder=dataset.folder,
        rows={entry.name.removesuffix(".jsonl"): entry.rows for entry in dataset.manifest.files},
    )


def _prepare(run: Run, request: Request, *, root: Path, output: Path | None) -> Prepared:
    from mlops.data import prepare

    dataset = prepare(request, home=run.settings.home / "data", output=output, root=root, console=run.console)
    columns = dataset.report.ignored_columns if dataset.report else ()
    if columns:
        run.console.warn(f"left out, being no part of the schema: {', '.join(columns)}")
    if dataset.report and dataset.report.invalid:
        run.console.warn(f"{dataset.report.invalid} rows break a rule and stand in rejected.jsonl")
    return dataset


# -- what people see ---------------------------------------------------------------------------------------------------


def _prepared_text(dataset: Prepared) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title, justify in (("file", "left"), ("rows", "right"), ("bytes", "right"), ("sha256", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for entry in dataset.manifest.files:
        table.add_row(entry.name, f"{entry.rows:,}", f"{entry.bytes:,}", entry.sha256[:16])
    state = "was prepared before" if dataset.repeated else "written"
    blocks: list[RenderableType] = [Text(f"{dataset.folder} {state}"), table]
    if dataset.report is not None:
        blocks += [Text(), report_text(dataset.report)]
    return Group(*blocks)


def _prepared_markdown(dataset: Prepared) -> str:
    from mlops.core.console import markdown_table

    rows = [[entry.name, f"{entry.rows:,}", f"{entry.bytes:,}"] for entry in dataset.manifest.files]
    manifest = dataset.manifest
    head = f"### Data `{manifest.content_hash}`\n\n{manifest.dataset}, {manifest.percent:g} % ({manifest.way})\n\n"
    return head + markdown_table(["file", "rows", "bytes"], rows)


def report_text(report: Report) -> RenderableType:
    """Counts per rule with the first offender, and the lengths of the rows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from mlops.data.rules import RULES

    blocks: list[RenderableType] = []
    rules = Table(box=None, pad_edge=False)
    for title in ("rule", "broken by", "first"):
        rules.add_column(title, overflow="fold")
    broken = {violation.rule: violation for violation in report.violations}
    for rule in RULES:
        violation = broken.get(rule)
        first = f"{violation.first}: {violation.reason}" if violation else ""
        rules.add_row(rule, str(violation.count) if violation else "-", Text(first))
    blocks.append(rules)
    lengths: dict[int | None, int] = {}
    for split in report.splits:
        for bound, count in split.lengths:
            lengths[bound] = lengths.get(bound, 0) + count
    most = max(lengths.values(), default=0)
    if most:
        blocks += [Text(), Text("bytes of a row")]
        last = max(index for index, count in enumerate(lengths.values()) if count)
        for bound, count in list(lengths.items())[: last + 1]:
            label = f"≤ {bound:,}" if bound else "more"
            bar = "█" * -(-count * BAR // most)
            blocks.append(Text(f"{label:>10}  {bar:<{BAR}}  {count:,}"))
    blocks.append(Text(f"{report.rows:,} rows in {len(report.splits)} split(s), {report.invalid:,} invalid"))
    return Group(*blocks)


def _row_text(row: Any) -> list[RenderableType]:
    from rich.text import Text

    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        return [Text(f"  not a chat: {row!r:.200}", style="red")]
    colours = {"user": "cyan", "assistant": "green", "system": "magenta"}
    lines: list[RenderableType] = [Text(f"  prompt_id {row.get('prompt_id')}", style="dim")]
    for message in row["messages"]:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else ("?", message)
        lines.append(Text.assemble((f"  {role}: ", colours.get(str(role), "red")), str(content)))
    return lines
