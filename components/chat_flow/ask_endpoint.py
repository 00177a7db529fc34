"""The flow's one node: sends the chat to an online endpoint and returns its answer."""

import json
from typing import Any

import requests
from promptflow.connections import CustomConnection
from promptflow.core import tool

CONNECT_S = 10
INPUT, OUTPUT = "input_data", "answer"
"""The flow's own names for a question and its answer, under which the history holds them."""


class EndpointError(Exception):
    """The endpoint did not answer; the message is for whoever chats."""


@tool  # type: ignore[untyped-decorator]
def ask(
    connection: CustomConnection,
    input_data: str,
    chat_history: list[dict[str, Any]],
    temperature: float = 0.7,
    max_new_tokens: int = 128,
    timeout_s: float = 90,
) -> str:
    """Asks the endpoint.

    Args:
        connection: with `endpoint`, the scoring address, and the secret `key`.
        input_data: the question.
        chat_history: the turns before it, as Prompt flow hands them over.
        temperature: 0 is greedy.
        max_new_tokens: longest answer.
        timeout_s: longest wait for a byte of the answer.

    Raises:
        EndpointError: there is no answer; says why.
    """
    if not input_data.strip():
        raise EndpointError("the question is empty")
    payload = {
        "input_data": {
            "input_string": messages(input_data, chat_history),
            "parameters": {"temperature": temperature, "max_new_tokens": max_new_tokens},
        },
        "params": {},
    }
    address = connection.configs["endpoint"]
    try:
        response = requests.post(
            address,
            json=payload,
            headers={"Authorization": f"Bearer {connection.secrets['key']}"},
            timeout=(CONNECT_S, timeout_s),
        )
    except requests.Timeout:
        raise EndpointError(f"no answer from '{address}' within {timeout_s:g} s") from None
    except requests.RequestException as error:
        raise EndpointError(f"'{address}' was not reached: {type(error).__name__}") from None
    if response.status_code != 200:
        raise EndpointError(f"'{address}' answered HTTP {response.status_code}: {reason(response)}")
    return text(response)


def messages(question: str, history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Returns the chat as messages; a turn that has no answer is left out."""
    turns = []
    for turn in history:
        prompt, reply = turn["inputs"].get(INPUT), turn["outputs"].get(OUTPUT)
        if prompt and reply:
            turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return [*turns, {"role": "user", "content": question}]


def text(response: requests.Response) -> str:
    """Returns the answer in a response: `{"output": text}`, or a list of one text.

    Raises:
        EndpointError: there is none.
    """
    try:
        output = json.loads(response.content)["output"]
    except (ValueError, KeyError, TypeError):
        output = None
    if isinstance(output, list) and len(output) == 1:
        output = output[0]
    if not isinstance(output, str):
        raise EndpointError(f"there is no text in the endpoint's answer: {response.text[:200]!r}")
    return output


def reason(response: requests.Response) -> str:
    """Returns why a request was refused, in the server's own words where it has some, and what to do."""
    try:
        message = str(json.loads(response.content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.headers.get("ms-azureml-model-error-reason") or response.text
    advice = {
        401: "; the key was changed: mlops flow connect takes the new one",
        404: "; no deployment has traffic, or the endpoint is gone: mlops endpoint status shows it",
        429: "; too many ask at once: try again",
    }
    return (message.strip()[:500] or response.reason or "no reason given") + advice.get(response.status_code, "")
