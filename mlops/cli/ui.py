"""mlops ui: the page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlops.cli.options import Run, command

if TYPE_CHECKING:
    from mlops.ui.server import Address

PORT = click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on (127.0.0.1). [default: a free one]"
)
BROWSER = click.option("--browser/--no-browser", default=True, help="Open the page in a browser.")


@command(example="mlops ui\nmlops ui --target production --no-browser")
@PORT
@BROWSER
def ui(run: Run, port: int, browser: bool) -> None:
    """Open the local dashboard.

    It shows the endpoint, releases, trainings and models, and chats with both slots.

    Served on 127.0.0.1 alone, to whoever has the token in its address; it changes nothing in Azure. The same address
    answers OpenAI-style clients below /v1, with the token as their API key. Ctrl-C ends it.
    """
    show(run, port=port, browser=browser)


def show(run: Run, *, port: int, browser: bool) -> None:
    """Serve the page of a target until Ctrl-C."""
    from mlops.azure.session import connect
    from mlops.ui.server import serve

    def ready(address: Address) -> None:
        run.console.mask(address.token)
        document = {
            "url": address.url,
            "base_url": address.base,
            "token": address.token,
            "openai_base_url": address.openai_base_url,
            "target": address.target,
        }
        run.console.result(document, address.url)
        run.console.say(f"OpenAI-style clients: base URL {address.openai_base_url}, API key: the token")
        run.console.say("Ctrl-C ends it")
        if browser:
            _open(address.browser_url)

    session = connect(run.settings, run.console)
    serve(session, port=port, ready=ready)


def _open(url: str) -> None:
    """Open a browser; where there is none the address has been printed."""
    import os
    import sys
    import webbrowser

    screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and not os.environ.get("CI"):
        webbrowser.open(url)
