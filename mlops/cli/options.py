"""What every command has: --target, --json, help with an example, and the console."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlops.config.settings import Settings
    from mlops.core.console import Console

LOCAL = "local"
TARGET_HELP = "Section of mlops.yaml to work on: local, staging, production."


@dataclass
class Run:
    """One call of a command: its target and its console."""

    target: str
    console: Console

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings of this target, read and validated when first used."""
        from mlops.config.settings import load

        return load(self.target)

    @property
    def target_flag(self) -> str:
        """What a command that is told to people needs to mean this target."""
        return "" if self.target == LOCAL else f" --target {self.target}"


class _MayBeEmpty(click.Parameter):
    """An empty value counts as not given: a workflow passes every input, and one that was left out comes as ``""``."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> Any:
        """The value from the command line, the environment or the default, in this order."""
        given = {name: value for name, value in opts.items() if name != self.name or value != ""}
        return super().consume_value(ctx, given)


class _Option(_MayBeEmpty, click.Option):
    """An option that may have been called something else before: an old name still works, no help shows it."""

    def __init__(self, *args: Any, old_names: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.old_names = list(old_names)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Teach the parser the option's names, the old ones too."""
        super().add_to_parser(parser, ctx)
        if self.old_names:
            names, self.opts = self.opts, self.old_names
            try:
                super().add_to_parser(parser, ctx)
            finally:
                self.opts = names


class _Argument(_MayBeEmpty, click.Argument):
    pass


def option(*names: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option of a command; an empty value counts as not given.

    Args:
        names: as :func:`click.option` takes them.
        attributes: likewise; besides, ``old_names``: names of earlier versions, which still work.
    """
    return click.option(*names, cls=_Option, **attributes)


def endpoint_option(parameter: str = "name", *, also: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--endpoint``, the same for every command that has it.

    Args:
        parameter: the function's parameter.
        also: what else the name may be.
    """
    return option("--endpoint", parameter, metavar="NAME", help=f"Endpoint name{also} (default: from the settings).")


def argument(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An argument that may be left out; an empty one counts as left out."""
    return click.argument(name, cls=_Argument, required=False, **attributes)


class Timespan(click.ParamType[float]):
    """``30s``, ``45m``, ``5h``, ``7d``; becomes seconds, which is also what a bare number is."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, (int, float)):
            return float(value)
        from mlops.core.errors import UsageError
        from mlops.core.timespan import timespan

        try:
            return timespan(value, bare="s").total_seconds()
        except UsageError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


def epilog(example: str) -> str:
    """The end of a help: lines of shell, kept as they are."""
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    return f"\b\nExample:\n{lines}"


def command(
    *, example: str, name: str | None = None, group: click.Group | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command; its first argument is the :class:`Run`.

    Args:
        example: lines of shell shown at the end of the help.
        name: the command's name, the function's by default.
        group: the group it belongs to, none for a top-level command.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def call(*args: Any, target: str, as_json: bool, **kwargs: Any) -> Any:
            from mlops.core.console import Console

            return function(Run(target=target, console=Console(as_json=as_json)), *args, **kwargs)

        decorated = click.command(
            name=name or function.__name__.replace("_", "-"),
            epilog=epilog(example),
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )(call)
        decorated = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(
            decorated
        )
        decorated = click.option(
            "-t", "--target", envvar="MLOPS_TARGET", default=LOCAL, show_default=True, help=TARGET_HELP
        )(decorated)
        if group is not None:
            group.add_command(decorated)
        return decorated

    return decorate
