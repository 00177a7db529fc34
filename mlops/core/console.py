"""What people and machines see: progress on stderr, results on stdout, folding and summaries on GitHub.

The console knows three audiences: a terminal (colours, a live spinner), a plain log (one line per event) and a GitHub
job (folded groups, annotations, step outputs, a Markdown summary). Plain functions never print; they take a
:class:`Console` only to report progress.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType
    from rich.progress import Progress

    from mlops.core.errors import FileLocation, MlopsError

WIDTH = 80
"""Columns used when the output is no terminal."""


def plain(value: Any) -> Any:
    """Turn dataclasses, pydantic models, paths and enums into what JSON can hold; NaN and infinities become null."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, inf_nan_mode="null")


@dataclass
class Step:
    """One timed step of a run, as the closing table shows it."""

    title: str
    seconds: float = 0.0
    outcome: str = "running"
    note: str = ""
    depth: int = 0


@dataclass
class Console:
    """Writes for whoever is there.

    Attributes:
        as_json: results go to stdout as one JSON document; nothing else does.
        quiet: no progress at all (errors still show).
    """

    as_json: bool = False
    quiet: bool = False
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.on_github = os.environ.get("GITHUB_ACTIONS") == "true"
        self._depth = 0

    # -- where things go -------------------------------------------------------------------------------------------

    @property
    def err(self) -> RichConsole:
        """The console on stderr; made anew so that a redirected stream is honoured."""
        return self._rich(sys.stderr)

    @property
    def out(self) -> RichConsole:
        """The console on stdout. What a model says is shown as it is, brackets and colons included."""
        return self._rich(sys.stdout, markup=False)

    @staticmethod
    def _rich(stream: Any, *, markup: bool = True) -> RichConsole:
        from rich.console import Console as RichConsole

        class Terminal(RichConsole):
            def on_broken_pipe(self) -> None:
                """`mlops … | head`: the reader's choice, which the entry point knows; rich would exit with 1."""
                raise BrokenPipeError

        terminal = stream.isatty()
        width = None if terminal or "COLUMNS" in os.environ else WIDTH
        return Terminal(file=stream, width=width, highlight=False, emoji=False, markup=markup, soft_wrap=not terminal)

    # -- progress --------------------------------------------------------------------------------------------------

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run a block as one step: its title first, then ✓ or ✕ with the time it took."""
        from rich.markup import escape

        step = Step(title, depth=self._depth)
        self.steps.append(step)
        start = time.monotonic()
        show = not self.quiet
        if show and self.on_github and self._depth == 0:
            print(f"::group::{title}", file=sys.stderr, flush=True)  # noqa: T201
        elif show:
            self.err.print(f"{'  ' * self._depth}[bold]→[/bold] {escape(title)}")
        self._depth += 1
        try:
            yield step
        except BaseException:
            step.outcome = "failed"
            raise
        else:
            step.outcome = "done" if step.outcome == "running" else step.outcome
        finally:
            self._depth -= 1
            step.seconds = time.monotonic() - start
            if show:
                if self.on_github and self._depth == 0:
                    print("::endgroup::", file=sys.stderr, flush=True)  # noqa: T201
                mark = {"done": "[green]✓[/green]", "skipped": "[dim]–[/dim]"}.get(step.outcome, "[red]✕[/red]")
                note = f"  [dim]{escape(step.note)}[/dim]" if step.note else ""
                self.err.print(f"{'  ' * self._depth}{mark} {escape(title)} [dim]{step.seconds:.1f} s[/dim]{note}")

    def say(self, text: str) -> None:
        """One line of progress, plain text."""
        from rich.markup import escape

        if not self.quiet:
            self.err.print(f"{'  ' * self._depth}{escape(text)}", soft_wrap=True)  # an address stays in one piece

    def warn(self, text: str, *, location: FileLocation | None = None) -> None:
        """Something the user should know but that stops nothing."""
        from rich.markup import escape

        if self.on_github:
            self.annotate("warning", text, location=location)
        else:
            self.err.print(f"{'  ' * self._depth}[yellow]![/yellow] {escape(text)}", soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A rich progress display on stderr, silent where there is no terminal."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        hidden = self.quiet or not sys.stderr.isatty()
        with Progress(*columns, console=self.err, transient=True, disable=hidden) as progress:
            yield progress

    # -- GitHub ----------------------------------------------------------------------------------------------------

    def annotate(self, level: str, message: str, *, location: FileLocation | None = None) -> None:
        """An annotation on the pull request's file; ``level`` is error, warning or notice."""
        where = ""
        if location is not None:
            where = f" file={_property(_in_repository(location.file))}" + (
                f",line={location.line}" if location.line is not None else ""
            )
        print(f"::{level}{where}::{_data(message)}", file=sys.stderr, flush=True)  # noqa: T201

    def mask(self, secret: str) -> None:
        """Keep a secret out of GitHub's log."""
        if self.on_github and secret:
            print(f"::add-mask::{_data(secret)}", file=sys.stderr, flush=True)  # noqa: T201

    def outputs(self, values: Mapping[str, Any]) -> None:
        """Step outputs for later steps of the workflow; nothing outside GitHub."""
        target = os.environ.get("GITHUB_OUTPUT")
        if not target:
            return
        with Path(target).open("a", encoding="utf-8") as file:
            for name, value in values.items():
                text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
                fence = f"EOF_{os.urandom(8).hex()}"  # a value must not be able to close its own block
                file.write(f"{name}<<{fence}\n{text}\n{fence}\n")

    def summary(self, markdown: str) -> None:
        """Append to the job summary; nothing outside GitHub."""
        target = os.environ.get("GITHUB_STEP_SUMMARY")
        if target:
            with Path(target).open("a", encoding="utf-8") as file:
                file.write(markdown.rstrip() + "\n\n")

    # -- results ---------------------------------------------------------------------------------------------------

    def result(
        self,
        data: Any,
        text: RenderableType,
        *,
        outputs: Mapping[str, Any] | None = None,
        summary: str | None = None,
    ) -> None:
        """Show a command's result: ``data`` as JSON with --json, else ``text``; both to GitHub where it listens."""
        if self.as_json:
            sys.stdout.write(json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        else:
            self.out.print(text, soft_wrap=isinstance(text, str) or None)
        sys.stdout.flush()
        if outputs:
            self.outputs(outputs)
        if summary:
            self.summary(summary)

    def failure(self, error: MlopsError) -> None:
        """Show an error: what happened, the details, what to do next."""
        from rich.markup import escape

        if self.on_github:
            self.annotate("error", error.message, location=error.location)
        where = f"{error.location}: " if error.location is not None else ""
        err = self.err
        err.print(f"[red]✕[/red] {escape(where + error.message)}", soft_wrap=True)
        for line in error.details:
            err.print(f"  {escape(line)}", soft_wrap=True)
        if error.hint:
            err.print(f"[dim]→[/dim] {escape(error.hint)}", soft_wrap=True)
        if self.as_json:
            self.failed_as_json(error)
        blocks = [f"**✕ {where}{error.message}**"]
        if error.details:
            blocks.append("````text\n" + "\n".join(error.details) + "\n````")
        self.summary("\n\n".join([*blocks, *([error.hint] if error.hint else [])]))

    @staticmethod
    def failed_as_json(error: MlopsError) -> None:
        """An error as the one document on stdout."""
        document = {
            "error": {
                "message": error.message,
                "kind": type(error).__name__,
                "exit_code": error.exit_code,
                "hint": error.hint,
                "details": list(error.details),
                "place": None if error.location is None else plain(error.location),
            }
        }
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _in_repository(file: str) -> str:
    """A file as GitHub finds it: by its path from the repository's root, wherever the command runs."""
    root = os.environ.get("GITHUB_WORKSPACE")
    if not root or not Path(file).exists():
        return file
    path = Path(file).resolve()
    return path.relative_to(Path(root).resolve()).as_posix() if path.is_relative_to(Path(root).resolve()) else file


def _data(text: str) -> str:
    """Escape a workflow command's message, as GitHub's toolkit does."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a workflow command's property."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def markdown_table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; pipes in cells are escaped."""

    def line(cells: list[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *(line(row) for row in rows)])
