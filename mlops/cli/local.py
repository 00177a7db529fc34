"""mlops local: the daemon that stands in for Azure on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlops.cli.options import LOCAL, Run, command
from mlops.cli.ui import BROWSER, PORT, show
from mlops.core.errors import MlopsError, PreconditionError, UsageError

if TYPE_CHECKING:
    from mlops.local.daemon.client import DaemonFailed

EXAMPLE = """\b
Example:
  mlops local start
  eval "$(mlops local env)" && python your_azure_program.py"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXAMPLE)
def local() -> None:
    """Manage the local workspace: start, stop, status, env, logs, reset.

    A daemon on 127.0.0.1, one per checkout, that speaks Azure's REST, runs jobs and serves models. Every command with
    --target local starts it; its state lives below .mlops/local (MLOPS_HOME moves it).
    """


@command(
    group=local,
    example="""
mlops local start
mlops local start --config .             # with a config.json for MLClient.from_config
mlops local start --empty                # a fresh subscription, for mlops setup -t local
""",
)
@click.option(
    "--config",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write FOLDER/config.json for MLClient.from_config.",
)
@click.option("--empty", is_flag=True, help="Start with an empty subscription.")
def start(run: Run, config: Path | None, empty: bool) -> None:
    """Start the daemon if it is not running."""
    from mlops.local.daemon import client
    from mlops.local.daemon.environment import write_config_json

    if empty:
        _request_empty()
    try:
        daemon = client.start()
    except client.DaemonFailed as error:
        raise _did_not_start(error) from error
    if config is not None:
        _refuse_foreign_config(config / "config.json")
        write_config_json(config / "config.json", client.config())
    text = f"running (process {daemon.pid}), proxy {daemon.proxy}, state {daemon.state_folder}\n"
    run.console.result(daemon, text + 'next: eval "$(mlops local env)"')


@command(group=local, example="mlops local stop")
def stop(run: Run) -> None:
    """Stop the daemon, its jobs and scoring processes; stored data is kept."""
    from mlops.local.daemon import client

    stopped = client.stop()
    run.console.result({"stopped": stopped}, "stopped" if stopped else "it was not running")


@command(group=local, example="mlops local status --json")
def status(run: Run) -> None:
    """Show whether the daemon runs, where, and since when."""
    from mlops.local.daemon import client

    daemon = client.status(details=True)
    lines = [f"{'running' if daemon.running else 'not running'}, state {daemon.state_folder}"]
    if daemon.running:
        lines.append(f"process {daemon.pid} since {daemon.started}, proxy {daemon.proxy}")
        lines += [f"MLflow {daemon.tracking}"] if daemon.tracking else []
    run.console.result(daemon, "\n".join(lines))


@command(
    group=local,
    example="""
eval "$(mlops local env)"                # this shell's Azure is now the local workspace
mlops local env --format github >> "$GITHUB_ENV"
""",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["shell", "json", "github"]),
    default="shell",
    show_default=True,
    help="Output format: shell exports, one JSON object, or lines for GITHUB_ENV.",
)
def env(run: Run, form: str) -> None:
    """Print the environment variables that direct Azure calls to the local workspace; starts it if needed.

    The lines hold the client secret that this workspace issued to itself; it opens nothing else.
    """
    from mlops.local.daemon import client
    from mlops.local.daemon.environment import as_github, as_shell

    try:
        values = client.env()
    except client.DaemonFailed as error:
        raise _did_not_start(error) from error
    run.console.mask(values["AZURE_CLIENT_SECRET"] or "")
    if form == "json" or run.console.as_json:
        text = json.dumps(values, indent=2)
    else:
        text = as_github(values) if form == "github" else as_shell(values)
    click.echo(text)


@command(
    group=local,
    example="""
mlops local logs
mlops local logs --follow --log requests
""",
)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines until interrupted.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="Number of lines from the end."
)
@click.option("--log", default="daemon", show_default=True, help="Log to show: daemon, requests, …")
def logs(run: Run, follow: bool, lines: int, log: str) -> None:
    """Show the daemon's log."""
    from mlops.local.daemon import client
    from mlops.local.state.layout import Layout

    folder = Layout.find().logs
    known = sorted(path.stem for path in folder.glob("*.log"))
    if log not in known:
        advice = f"there are: {', '.join(known)}" if known else "mlops local start starts the workspace"
        raise PreconditionError(f"there is no log '{log}' in {folder}", hint=advice)
    log_lines = client.logs(tail=lines, follow=follow, name=log)
    if run.console.as_json and not follow:
        click.echo(json.dumps(list(log_lines), indent=2, ensure_ascii=False))
        return
    for line in log_lines:
        click.echo(line)


@command(
    group=local,
    example="""
mlops local reset --yes
mlops local reset --yes --empty          # the next start finds an empty subscription
""",
)
@click.option("--yes", is_flag=True, help="Skip the confirmation prompt.")
@click.option("--empty", is_flag=True, help="Start with an empty subscription next time.")
def reset(run: Run, yes: bool, empty: bool) -> None:
    """Stop the daemon and delete the workspace's data; the cache of base models and data is kept."""
    from mlops.local.daemon import client, seed
    from mlops.local.state.layout import Layout

    folder = Layout.find().root
    if folder.is_dir() and not yes:
        question = f"Delete every job, model, endpoint, blob and log in {folder}?"
        if not sys.stdin.isatty():
            raise PreconditionError("nothing was deleted: this needs a yes", hint="mlops local reset --yes")
        click.confirm(question, abort=True, err=True)
    existed = client.reset()
    if empty:
        seed.request_empty(Layout.find())
    run.console.result({"deleted": str(folder) if existed else None}, "deleted" if existed else "there was nothing")


@command(group=local, name="ui", example="mlops local ui --no-browser")
@PORT
@BROWSER
def ui(run: Run, port: int, browser: bool) -> None:
    """Open the dashboard of the local workspace (see `mlops ui`)."""
    show(Run(target=LOCAL, console=run.console), port=port, browser=browser)


def _request_empty() -> None:
    """Ask for an empty subscription at the first start; one that was seeded with a workspace is refused."""
    from mlops.local.daemon import seed
    from mlops.local.state.layout import Layout

    layout = Layout.find()
    empty = seed.seeded_empty(layout)
    if empty is None:
        seed.request_empty(layout)
    elif not empty:
        raise PreconditionError(
            f"the subscription in '{layout.root}' began with a workspace in it", hint="mlops local reset --empty"
        )


def _did_not_start(error: DaemonFailed) -> MlopsError:
    from mlops.local.daemon.client import WrongEnvironment

    first, *rest = str(error).splitlines()
    if isinstance(error, WrongEnvironment):
        return UsageError(first, details=rest, hint="correct the variable, or unset it")
    return PreconditionError(
        "the local workspace did not start",
        details=[first, *rest],
        hint="mlops local logs shows more; mlops local reset deletes its data and starts afresh",
    )


def _refuse_foreign_config(path: Path) -> None:
    """A config.json of a real workspace is not ours to overwrite."""
    from mlops.local.state.config import Config

    if not path.exists():
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict) or config.get("subscription_id") != Config().subscription:
        raise PreconditionError(f"'{path}' is there and names another workspace", hint="name another folder")
