"""Run by Prompt flow's interpreter: runs the flow once on a question and the turns before it."""

from typing import Any

from document import answer


def ask(document: dict[str, Any]) -> dict[str, Any]:
    """Run the flow."""
    from promptflow.client import load_flow

    flow = load_flow(document["flow"])
    return {"answer": flow(input_data=document["question"], chat_history=document["history"])["answer"]}


answer(ask)
