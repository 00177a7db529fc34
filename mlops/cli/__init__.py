"""The click group. Commands live one file per noun and are imported when they are called, not before."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from mlops import __version__
from mlops.cli.options import epilog
from mlops.core.errors import Interrupted, MlopsError, UsageError

# name -> (module, attribute, one line for the help): the help needs no import of what it lists.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("mlops.cli.run", "run", "Run everything: data, training, gated deployment."),
    "data": ("mlops.cli.data", "data", "Prepare, validate and preview the chats."),
    "train": ("mlops.cli.train", "train", "Submit the chat_completion pipeline and follow it."),
    "wait": ("mlops.cli.wait", "wait", "Follow a training job to its end."),
    "metrics": ("mlops.cli.metrics", "metrics", "Show losses, throughput and scores of a training job."),
    "register": ("mlops.cli.register", "register", "Register a completed job's model under the job's timestamp."),
    "deploy": ("mlops.cli.deploy", "deploy", "Deploy a model version blue/green, behind the gate."),
    "rollback": ("mlops.cli.rollback", "rollback", "Roll back to the previous version or a named one."),
    "endpoint": ("mlops.cli.endpoint", "endpoint", "List endpoints; show status, logs and history; ask a question."),
    "chat": ("mlops.cli.chat", "chat", "Chat with the deployed model."),
    "flow": ("mlops.cli.flow", "flow", "Connect the Prompt flow to the endpoint, test it, serve it."),
    "reconcile": ("mlops.cli.reconcile", "reconcile", "Resume work left by finished or interrupted workflows."),
    "doctor": ("mlops.cli.doctor", "doctor", "Check the prerequisites of training and deployment."),
    "payload": ("mlops.cli.payload", "payload", "Build and validate scoring requests."),
    "cleanup": ("mlops.cli.cleanup", "cleanup", "Delete stale previews, idle slots and failed deployments."),
    "setup": ("mlops.cli.setup", "setup", "Provision the Azure resources the workflows need."),
    "settings": ("mlops.cli.settings", "settings", "Check and show the settings of mlops.yaml."),
    "ui": ("mlops.cli.ui", "ui", "Open the local dashboard."),
    "local": ("mlops.cli.local", "local", "Manage the local workspace: start, stop, status, env, logs, reset."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is needed."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The names, in the order of a day's work."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=epilog("""
mlops run
mlops endpoint score "What is the range of the Curlew?"
"""),
)
@click.version_option(__version__, prog_name="mlops")
def group() -> None:
    """Fine-tune a chat model on Azure ML and release it blue/green behind a gate.

    Without Azure: every command talks to a local workspace that speaks Azure's REST (--target local).
    """


def main(arguments: Sequence[str], **extra: Any) -> int:
    """Run one command and return its exit code; every error ends here."""
    from mlops.core.console import Console

    as_json = "--json" in arguments
    try:
        code = group.main(args=list(arguments), prog_name="mlops", standalone_mode=False, **extra)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        Console(as_json=as_json).failure(Interrupted("interrupted"))
        return Interrupted.exit_code
    except click.ClickException as error:
        error.show()
        if as_json:
            Console(as_json=True).failed_as_json(UsageError(error.format_message()))
        return UsageError.exit_code
    except MlopsError as error:
        Console(as_json=as_json).failure(error)
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("MLOPS_TRACEBACK"):
            raise
        _report_bug(error)
        return 1
    return code if isinstance(code, int) else 0


def _report_bug(error: Exception) -> None:
    """A bug of ours: say so, keep the traceback in a file instead of the user's terminal."""
    import tempfile
    import traceback
    from pathlib import Path

    handle, name = tempfile.mkstemp(prefix="mlops-traceback-", suffix=".txt")
    os.close(handle)
    Path(name).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    click.echo(f"✕ a bug in mlops: {type(error).__name__}: {error}", err=True)
    click.echo(f"→ the traceback is in {name}; MLOPS_TRACEBACK=1 shows it", err=True)
    sys.stderr.flush()
