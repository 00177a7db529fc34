"""mlops chat."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, command, endpoint_option, option

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.chat import Asker, Conversation
    from mlops.chat.store import Chats
    from mlops.core.resources import Endpoint
    from mlops.scoring.client import Scorer

SPARE_S = 10.0
"""Longer than a deployment may take for an answer: its own refusal then comes first, and says more."""


@command(
    example="""
mlops chat
mlops chat --slot green --system "Answer in one sentence." --parameter temperature=0.2
echo "What is the range of the Curlew?" | mlops chat
""",
)
@option("--slot", old_names=["--deployment"], help="Send to this slot instead of live traffic.")
@endpoint_option("endpoint")
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option(
    "--parameter", "parameters", metavar="NAME=VALUE", multiple=True, help="Generation parameter; can be repeated."
)
@click.option("--max-new-tokens", type=click.IntRange(1, 4096), help="Same as --parameter max_new_tokens=N.")
@click.option("--resume", metavar="NAME", help="Resume a saved chat; 'last' is the newest.")
def chat(
    run: Run,
    slot: str | None,
    endpoint: str | None,
    system: str | None,
    parameters: tuple[str, ...],
    max_new_tokens: int | None,
    resume: str | None,
) -> None:
    """Chat with the deployed model.

    A piped question gets one answer on stdout.

    In a terminal: /help lists what else a line may say, Ctrl-C stops an answer, Ctrl-D ends. Answers are shown while
    they are written where the server streams. Each chat is kept below .mlops/chats, for your eyes alone.
    """
    from dataclasses import replace

    from mlops.chat import Asker, Conversation
    from mlops.chat.conversation import parameter
    from mlops.chat.store import Chats
    from mlops.core.errors import UsageError

    piped_question = _piped(run)
    chats = Chats(run.settings.home)
    name, talk = chats.load(resume) if resume else (chats.new_name(), Conversation())
    given = dict(parameter(item) for item in parameters)
    if max_new_tokens is not None:
        if {"max_new_tokens", "max_tokens", "max_gen_len"} & set(given):
            raise UsageError("give --max-new-tokens or the parameter, not both")
        given["max_new_tokens"] = max_new_tokens
    talk = talk.with_parameters(given)
    if system:
        talk = replace(talk, system=talk.checked(system))
    if piped_question is not None:
        talk.checked(piped_question)
    session, scorer, title = _open(run, endpoint, slot)
    with Asker(scorer, slot=slot) as asker:
        if piped_question is not None:
            _once(
                run,
                asker,
                talk,
                piped_question,
                endpoint=endpoint or session.settings.endpoint.name,
                logs=_logs(run, endpoint, slot),
                keep=(chats, name) if resume else None,
            )
        else:
            logs = _logs(run, endpoint, slot)
            _terminal(run, asker, talk, chats=chats, name=name, endpoint=endpoint, title=title, logs=logs)
            if chats.has(name):
                flags = _named(endpoint, slot)
                text = f"kept; to go on: mlops chat{run.target_flag}{flags} --resume {name}"
                run.console.out.print(text, style="dim", soft_wrap=True)


def _piped(run: Run) -> str | None:
    """The question on stdin; None where a person sits there."""
    from mlops.core.errors import DataInvalid, UsageError

    if not sys.stdin.isatty():
        try:
            return sys.stdin.read().strip()
        except UnicodeDecodeError:
            raise DataInvalid("the question is not UTF-8") from None
    if run.console.as_json or not sys.stdout.isatty():
        raise UsageError(
            "a chat needs a terminal; for one answer pipe the question in",
            hint=f'echo "What is the range of the Curlew?" | mlops chat{run.target_flag}',
        )
    return None


def _open(run: Run, name: str | None, slot: str | None) -> tuple[Session, Scorer, str]:
    """The endpoint, once it is sure that it can answer.

    Raises:
        PreconditionError: there is no such endpoint or slot, or nothing is live.
    """
    from mlops.azure import endpoints
    from mlops.azure.session import connect
    from mlops.core.errors import PreconditionError
    from mlops.scoring.client import scorer

    session = connect(run.settings, run.console)
    name = name or run.settings.endpoint.name
    endpoint = endpoints.required(session, name)
    slots = {item.name: item for item in endpoints.deployments(session, name)}
    slot_list = ", ".join(sorted(slots)) or "none"
    if slot is not None and slot not in slots:
        raise PreconditionError(f"'{name}' has no slot '{slot}'", hint=f"there are: {slot_list}")
    if slot is None and not endpoint.live:
        raise PreconditionError(f"'{name}' has no live slot", hint=f"name one: --slot SLOT; there are: {slot_list}")
    limit_s = run.settings.deployment.request_timeout_ms / 1000 + SPARE_S
    asked_scorer = scorer(session, name, timeout_s=limit_s, endpoint=endpoint)
    return session, asked_scorer, _title(run.target, endpoint, slots, slot)


def _title(target: str, endpoint: Endpoint, slots: dict[str, Any], chosen: str | None) -> str:
    slots_asked = [chosen] if chosen else endpoint.live

    def slot_text(slot: str) -> str:
        version = slots[slot].model_version if slot in slots else None
        share = "" if chosen else f" {endpoint.traffic.get(slot, 0)} %"
        return f"{slot}{share}" + (f", version {version}" if version else "")

    return f"{endpoint.name} ({target}) · {' · '.join(slot_text(slot) for slot in slots_asked)}"


def _logs(run: Run, endpoint: str | None, slot: str | None) -> str:
    """The command that shows the server's log."""
    return f"mlops endpoint logs{run.target_flag}{_named(endpoint, slot)}"


def _named(endpoint: str | None, slot: str | None) -> str:
    """The options that mean this endpoint and slot."""
    return (f" --endpoint {endpoint}" if endpoint else "") + (f" --slot {slot}" if slot else "")


def _once(
    run: Run,
    asker: Asker,
    talk: Conversation,
    question: str,
    *,
    endpoint: str,
    logs: str,
    keep: tuple[Chats, str] | None,
) -> None:
    """One question, one answer on stdout."""
    from mlops.chat import usage
    from mlops.chat.terminal import harmless
    from mlops.core.errors import AzureError

    outcome = asker.ask(talk, question)
    answer = outcome.answer
    if not answer.ok:
        raise AzureError(f"the endpoint '{endpoint}' did not answer: {answer.error}", hint=f"{logs} shows why")
    if outcome.newly_left_out:
        run.console.warn(f"{outcome.newly_left_out} of the oldest turns were left out: the model's context is full")
    if keep is not None:
        keep[0].keep(keep[1], outcome.conversation, endpoint=endpoint)
    text = answer.texts[0]
    data = {"endpoint": endpoint, "answer": text, **usage.document(answer), "parameters": talk.parameters}
    if run.console.as_json:
        run.console.result(data, text)
    else:  # as it is: no line of it is broken anew
        sys.stdout.write((harmless(text) if sys.stdout.isatty() else text) + "\n")


def _terminal(
    run: Run,
    asker: Asker,
    talk: Conversation,
    *,
    chats: Chats,
    name: str,
    endpoint: str | None,
    title: str,
    logs: str,
) -> None:
    """A chat with whoever sits at the terminal."""
    from mlops.chat.commands import State
    from mlops.chat.terminal import Terminal

    console = run.console.out
    console.print(title, style="bold", soft_wrap=True)
    console.print("/help lists the commands · Ctrl-C stops an answer · Ctrl-D ends", style="dim")
    if talk.turns:
        console.print(f"going on with {name}: {len(talk.turns)} turns so far", style="dim")
    chat = Terminal(
        asker=asker,
        chats=chats,
        name=name,
        endpoint=endpoint or run.settings.endpoint.name,
        logs=logs,
        state=State(talk=talk),
        console=console,
    )
    chat.run()
