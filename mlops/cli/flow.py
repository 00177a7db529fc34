"""mlops flow connect, test, serve, env."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING

import click

from mlops.cli.options import Run, command, endpoint_option, epilog

if TYPE_CHECKING:
    from mlops.flow import Connection, Environment

NAME_HELP = "The connection's name; the flow in components/chat_flow asks for this one."


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=epilog("""
mlops flow connect
mlops flow test "What is the range of the Curlew?"
mlops flow serve --port 8080
"""),
)
def flow() -> None:
    """Connect the Prompt flow to the endpoint, test it, serve it.

    The flow lies in components/chat_flow.

    `make flow` installs Prompt flow into an environment of its own. It retires on 2027-04-20; mlops chat does the same.
    """


@command(
    group=flow,
    example="""
mlops flow connect
mlops flow connect --target production --azure
""",
)
@click.option("--azure", is_flag=True, help="Create it in the Azure project instead of on this machine.")
@click.option("--project", metavar="NAME", help="The project; with --azure. By default that of the settings.")
@click.option("--name", default="chat-endpoint", show_default=True, help=NAME_HELP)
@endpoint_option("endpoint")
def connect(run: Run, azure: bool, project: str | None, name: str, endpoint: str | None) -> None:
    """Create or update the flow's connection from the endpoint; no key is copied by hand."""
    from mlops.core.errors import UsageError

    if project and not azure:
        raise UsageError("--project goes with --azure")
    if azure:
        from mlops.azure.session import connect as login
        from mlops.flow import connect_azure

        project = project or run.settings.setup.project
        session = login(run.settings, run.console)
        connection = connect_azure(session, run.settings, run.console, project=project, name=name, endpoint=endpoint)
        where = kept = f"the project '{project}'"
    else:
        connection, environment = _connected(run, name=name, endpoint=endpoint)
        where = str(environment.home)
        kept = f"{where}, its key encrypted"
    run.console.result(
        {"name": connection.name, "endpoint": connection.endpoint, "where": where},
        f"{connection.name} → {connection.endpoint}\nkept in {kept}",
    )


def _connected(run: Run, *, name: str | None = None, endpoint: str | None = None) -> tuple[Connection, Environment]:
    """The connection, made on this machine, and the environment that knows it."""
    from mlops.azure.session import connect as login
    from mlops.flow import NAME, Environment, connect_local, connection_of

    environment = Environment.of(run.settings)
    session = login(run.settings, run.console)
    connection = connection_of(session, endpoint=endpoint or run.settings.endpoint.name, name=name or NAME)
    run.console.mask(connection.key)
    connect_local(environment, connection)
    return connection, environment


@command(group=flow, example='mlops flow test "What is the range of the Curlew?"')
@click.argument("question")
@endpoint_option("endpoint")
def test(run: Run, question: str, endpoint: str | None) -> None:
    """Run the flow once on this machine, against the target's endpoint."""
    connection, environment = _connected(run, endpoint=endpoint)
    limit_s = run.settings.deployment.request_timeout_ms / 1000 + 60
    folder = environment.copy(f"test-{os.getpid()}")
    try:
        document = {"flow": str(folder), "question": question, "history": []}
        answer = environment.run("ask.py", document, timeout_s=limit_s)["answer"]
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    run.console.result({"endpoint": connection.endpoint, "answer": answer}, answer)


@command(group=flow, example="mlops flow serve --port 8080")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port to listen on (127.0.0.1)."
)
@endpoint_option("endpoint")
def serve(run: Run, port: int, endpoint: str | None) -> None:
    """Serve the flow over HTTP on this machine until Ctrl-C.

    POST /score takes {"input_data": "…", "chat_history": []}; Prompt flow shows a page to chat at the address itself.
    """
    connection, environment = _connected(run, endpoint=endpoint)
    url = f"http://127.0.0.1:{port}"
    target = connection.endpoint
    run.console.result({"url": url, "endpoint": target}, f"{url} asks {target}; Ctrl-C ends it")
    arguments = ["--source", str(environment.copy(f"serve-{port}")), "--host", "127.0.0.1", "--port", str(port)]
    command_ = [str(environment.pf), "flow", "serve", *arguments, "--skip-open-browser"]
    os.execve(command_[0], command_, os.environ | environment.variables())  # noqa: S606 - no shell is meant


@command(group=flow, example='eval "$(mlops flow env)" && .venv/flow/bin/pf connection list')
def env(run: Run) -> None:
    """Print the environment variables that Prompt flow's own command, pf, needs to find the connection."""
    from mlops.flow import Environment

    variables = Environment.of(run.settings).variables()
    text = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
    run.console.result(variables, text)
