"""Run by Prompt flow's interpreter: runs the flow once on a question and the turns before it."""

from typing import Any

from document import answer


def ask(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the flow."""
    from promptflow.client import load_flow

    flow = load_flow(asked["flow"])
    return {"answer": flow(input_data=asked["question"], chat_history=asked["history"])["answer"]}


answer(ask)
