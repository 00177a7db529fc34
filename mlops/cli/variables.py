"""Every environment variable ``MLOPS_*`` of the product, for the command reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Variable:
    """A row of the table."""

    name: str
    default: str
    meaning: str


COMMAND = (
    Variable("MLOPS_TARGET", "local", "the section of `mlops.yaml` to work on, as `--target`"),
    Variable("MLOPS_SETTINGS", "", "the settings file; by default `mlops.yaml` in this folder or above"),
    Variable("MLOPS_HOME", ".mlops", "folder of the local workspace, reports and caches; by default in the checkout"),
    Variable("MLOPS_CACHE", "", "folder of downloaded models and data; by default `cache` below `MLOPS_HOME`"),
    Variable("MLOPS_TRACEBACK", "", "1 prints the traceback of exit code 1 instead of writing it to a file"),
)
TRAINING = (
    Variable("MLOPS_CHECKPOINT_S", "900", "seconds between two checkpoints of a training"),
    Variable("MLOPS_KERNELS", "on", "`off` trains without Flash attention's and Liger's kernels"),
)
SERVER = (
    Variable("MLOPS_ENGINE_ARGS", "", "additional arguments for vLLM, which override ours"),
    Variable("MLOPS_HOST", "0.0.0.0", "address vLLM listens on"),  # noqa: S104 - a container's own network
    Variable("MLOPS_PORT", "5001", "port vLLM listens on"),
    Variable("MLOPS_MAX_BATCH_SIZE", "8", "maximum conversations per model call (Azure's inference server)"),
    Variable(
        "MLOPS_BATCH_WAIT_MS", "10", "maximum wait for a batch to fill, in milliseconds (Azure's inference server)"
    ),
)
INTERNAL = (
    Variable("MLOPS_ENGINE_TOKENIZER", "", "set by the server: folder of the model's tokenizer"),
    Variable("MLOPS_LOCAL_STATE", "", "set by the local workspace: marks the processes that belong to it"),
    Variable("MLOPS_UPSTREAM_PROXY", "", "set by `mlops local env`: the proxy that was set before"),
    Variable("MLOPS_UPSTREAM_NO_PROXY", "", "set by `mlops local env`: the hosts that bypassed that proxy"),
    Variable("MLOPS_UPSTREAM_CA_BUNDLE", "", "set by `mlops local env`: the certificates that were trusted before"),
)


def every(commands: list[tuple[tuple[str, ...], click.Command]]) -> list[Variable]:
    """All of them, in the order of the table; those of options come from the commands themselves."""
    return [*COMMAND, *_of_options(commands), *TRAINING, *SERVER, *_of_local_workspace(), *INTERNAL]


def _of_options(commands: list[tuple[tuple[str, ...], click.Command]]) -> Iterator[Variable]:
    users: dict[tuple[str, str], list[str]] = {}
    for path, command in commands:
        for item in command.params:
            if isinstance(item.envvar, str) and item.envvar not in {each.name for each in COMMAND}:
                option = max(item.opts, key=len)
                users.setdefault((item.envvar, option), []).append(" ".join(path))
    for (name, option), paths in sorted(users.items()):
        yield Variable(name, "", f"`true` is `{option}` of {', '.join(f'`mlops {path}`' for path in paths)}")


def _of_local_workspace() -> Iterator[Variable]:
    from mlops.local.daemon.variables import PREFIX, Variables

    for name, field in Variables.model_fields.items():
        yield Variable(f"{PREFIX}{name.upper()}", _plain(field.default), field.description or "")


def _plain(default: Any) -> str:
    if isinstance(default, bool):
        return str(int(default))
    return "" if default in ({}, frozenset()) else str(default)
