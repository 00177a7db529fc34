"""mlops endpoint status, score, logs, history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mlops.cli.options import Run, command, endpoint_option, epilog


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=epilog("""
mlops endpoint status
mlops endpoint score "What is the range of the Curlew?"
mlops endpoint history
"""),
)
def endpoint() -> None:
    """List endpoints; show status, logs and history; ask a question."""


@command(group=endpoint, example="mlops endpoint status --json")
@endpoint_option()
def status(run: Run, name: str | None) -> None:
    """Show slots, versions and traffic."""
    from rich.table import Table

    from mlops.azure import endpoints
    from mlops.azure.session import connect
    from mlops.core.console import markdown_table

    session = connect(run.settings, run.console)
    name = name or run.settings.endpoint.name
    current = endpoints.required(session, name)
    slots = endpoints.deployments(session, name)
    table = Table(
        box=None, pad_edge=False, title=f"{name} is {current.state} · {current.scoring_url}", title_justify="left"
    )
    header = ["slot", "traffic", "version", "state", "machine"]
    for title in header:
        table.add_column(title)
    rows = [
        [
            item.name,
            f"{current.traffic.get(item.name, 0)} %",
            item.model_version or item.model,
            item.state,
            f"{item.instance_count} × {item.instance_type}",
        ]
        for item in sorted(slots, key=lambda item: item.name)
    ]
    for row in rows:
        table.add_row(*row)
    outputs = {"endpoint": name, "live": ",".join(current.live), "url": current.scoring_url or ""}
    run.console.result(
        {"endpoint": current, "deployments": slots},
        table,
        outputs=outputs,
        summary=f"### {name} ({run.target})\n\n{markdown_table(header, rows)}",
    )


@command(group=endpoint, name="list", example="mlops endpoint list --json")
def list_(run: Run) -> None:
    """List the workspace's endpoints: kind, state, age, slots with traffic and version."""
    from datetime import UTC, datetime, timedelta

    from rich.table import Table

    from mlops.azure.session import connect
    from mlops.cleanup import inventory
    from mlops.core.console import markdown_table
    from mlops.core.errors import AzureError

    session = connect(run.settings, run.console)
    states = inventory.endpoint_states(session)
    named = run.settings.endpoint
    rows = inventory.outline(states, lasting=named.name, prefix=named.preview_prefix, now=datetime.now(UTC))
    header = ["endpoint", "kind", "age", "slots"]
    table = Table(box=None, pad_edge=False)
    for title in header:
        table.add_column(title, overflow="fold")
    table_rows = []
    for row, state in zip(rows, states, strict=True):
        trouble = "" if state.endpoint.state.lower() == "succeeded" else f", {state.endpoint.state}"
        age = inventory.in_words(timedelta(seconds=row["age_s"])) if isinstance(row["age_s"], float) else ""
        table_rows.append(
            [state.endpoint.name, f"{row['kind']}{trouble}", age, "\n".join(inventory.slots_in_words(state))]
        )
    for line in table_rows:
        table.add_row(*line)
    cells = [[cell.replace("\n", " · ") for cell in line] for line in table_rows]
    run.console.result(
        {"endpoints": rows},
        table if rows else "there is no endpoint; mlops deploy makes one",
        outputs={"endpoints": [row["endpoint"] for row in rows]},
        summary=f"### {len(rows)} endpoints\n\n{markdown_table(header, cells)}",
    )
    problems = [f"{state.endpoint.name}: {state.problem}" for state in states if state.problem]
    if problems:
        for problem in problems:
            run.console.warn(problem)
        raise click.exceptions.Exit(AzureError.exit_code)


@command(
    group=endpoint,
    example="""
mlops endpoint score "What is the range of the Curlew?"
mlops endpoint score --request sample_score.json --slot green
""",
)
@click.argument("question", required=False)
@click.option(
    "--request", "file", type=click.Path(path_type=Path), help="Send this payload file instead of a question."
)
@click.option("--slot", help="Send to this slot instead of live traffic.")
@endpoint_option()
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 4096), default=128, show_default=True, help="Longest answer, in tokens."
)
def score(
    run: Run, question: str | None, file: Path | None, slot: str | None, name: str | None, max_new_tokens: int
) -> None:
    """Send the endpoint one question and show the answer."""
    from mlops.azure.session import connect
    from mlops.core.errors import AzureError, UsageError
    from mlops.scoring.client import scorer

    if (question is None) == (file is None):
        raise UsageError(
            "give a question or --request FILE", hint='mlops endpoint score "What is the range of the Curlew?"'
        )
    payload = _payload(question, file, max_new_tokens)
    session = connect(run.settings, run.console)
    name = name or run.settings.endpoint.name
    answer = scorer(session, name, timeout_s=run.settings.gate.timeout_s).ask(payload, slot=slot)
    if not answer.ok:
        raise AzureError(f"the endpoint '{name}' did not answer: {answer.error}", hint="mlops endpoint logs shows why")
    run.console.err.print(f"[dim]{answer.slot or name} · {answer.latency_ms:.0f} ms[/dim]")
    data = {"slot": answer.slot, "latency_ms": round(answer.latency_ms, 1), "output": list(answer.texts)}
    run.console.result(data, "\n".join(answer.texts), outputs={"slot": answer.slot or "", "answer": answer.texts[0]})


def _payload(question: str | None, file: Path | None, max_new_tokens: int) -> dict[str, Any]:
    from mlops.core.errors import DataInvalid
    from mlops.data.payload import check_text, read

    if file is None:
        messages = [{"role": "user", "content": question}]
        parameters = {"do_sample": False, "max_new_tokens": max_new_tokens}
        asked = {"input_data": {"input_string": messages, "parameters": parameters}, "params": {}}
        for problem in check_text(json.dumps(asked).encode(), name="the question")[1]:
            raise DataInvalid(f"the question {problem.message}", hint=problem.field)
        return asked

    payload: dict[str, Any] = read(file)
    return payload


@command(group=endpoint, example="mlops endpoint logs --slot green --lines 200")
@click.option("--slot", help="Slot (default: the live one).")
@click.option(
    "--lines", type=click.IntRange(1, 5000), default=50, show_default=True, help="Number of lines from the end."
)
@click.option(
    "--container",
    type=click.Choice(["server", "storage"]),
    default="server",
    show_default=True,
    help="Container: the scoring server or the storage initializer.",
)
@endpoint_option()
def logs(run: Run, slot: str | None, lines: int, container: str, name: str | None) -> None:
    """Show the end of a slot's container log."""
    from rich.text import Text

    from mlops.azure import endpoints
    from mlops.azure.session import connect
    from mlops.core.errors import PreconditionError

    session = connect(run.settings, run.console)
    name = name or run.settings.endpoint.name
    current = endpoints.required(session, name)
    slots = sorted(item.name for item in endpoints.deployments(session, name))
    if slot is None and not current.live:
        raise PreconditionError(f"'{name}' has no live slot", hint=f"name one: --slot {' or '.join(slots)}")
    slot = slot or current.live[0]
    if slot not in slots:
        there = ", ".join(slots) or "none"
        raise PreconditionError(f"'{name}' has no slot '{slot}'", hint=f"there are: {there}")
    text = endpoints.logs(session, name, slot, container=container, lines=lines)
    run.console.result({"endpoint": name, "slot": slot, "container": container, "log": text}, Text(text))


@command(group=endpoint, example="mlops endpoint history --limit 5")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="Number of rollouts to show, newest first."
)
@endpoint_option(also=", also of a deleted one")
def history(run: Run, limit: int, name: str | None) -> None:
    """Show who deployed what and when, with verdicts and traffic.

    Read from records in the workspace's storage, which outlive the endpoint.
    """
    from mlops import ledger
    from mlops.azure.session import connect
    from mlops.cli import history as tables

    session = connect(run.settings, run.console)
    name = name or run.settings.endpoint.name
    records, locked = ledger.Ledger(session, name).inspect()
    entries = ledger.history(records, locked=locked)
    newest = entries[:limit]
    if entries and entries[0].outcome is ledger.Outcome.UNFINISHED:
        run.console.say("the newest rollout was cut off: mlops deploy brings it to its end")
    title = f"{name}: {len(newest)} of {len(entries)} rollouts" if len(newest) < len(entries) else name
    data = {"endpoint": name, "held": locked, "total": len(entries), "rollouts": newest}
    if not entries:
        run.console.result(data, f"no rollout of '{name}' is on record")
        return
    run.console.result(
        data, tables.table(newest, title=title), summary=tables.markdown(newest, title=f"History of {title}")
    )
