"""Training that takes a second: the pipeline's components with other commands, and models that are tables of answers.

The pipeline, its interface and the way it is submitted stay as they are.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.checkout import ROOT
from tests.workflows.cloud import TRIVIAL

COMMANDS = {
    "validation": "echo '{}' > '${{outputs.validation_info}}'",
    "model_import": "echo base > '${{outputs.output_dir}}/model.txt'",
    "preprocess": "echo rows > '${{outputs.output_dir}}/rows.txt'",
    "finetune": "echo tuned > '${{outputs.pytorch_model_folder}}/model.txt'",
    "evaluate": "echo '{}' > '${{outputs.evaluation_output}}/scores.json'",
    "package": (
        "cp chat_completion/answers.json '${{outputs.mlflow_model_folder}}/answers.json' && "
        "printf 'flavors: {python_function: {loader_module: x}}\\n' > '${{outputs.mlflow_model_folder}}/MLmodel'"
    ),
}
CODE = "environments/table"
SETTINGS = {
    "training": {"pipeline": "components", "parameters": {"num_train_epochs": 1}},
    "deployment": {"code": CODE},
    "gate": {"conversations": 8, "max_conversations": 16},
}


def answers() -> dict[str, str]:
    """What the bundled chats hold as the right answers."""
    answers = {}
    for path in sorted((ROOT / "data" / "bundled" / "data").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            *_, question, answer = json.loads(line)["messages"]
            answers[question["content"]] = answer["content"]
    return answers


def components(**commands: str) -> dict[str, str | None]:
    """The files of a checkout whose training takes a second; single commands may be given."""
    files: dict[str, str | None] = {
        "components/chat_completion/answers.json": json.dumps(answers()),
        f"{CODE}/score.py": TRIVIAL,
    }
    for name, line in {**COMMANDS, **commands}.items():
        path = f"components/{name}.yml"
        text = (ROOT / path).read_text(encoding="utf-8")
        old = re.search(r"^command: >-\n(?:  .*\n)+", text, flags=re.MULTILINE)
        assert old is not None, path
        files[path] = text.replace(old[0], f"command: >-\n  {line}\n")
    return files


def table(folder: Path, *, good: bool = True) -> Path:
    """A model's folder: one that knows every answer, or one that knows none."""
    folder.mkdir(parents=True)
    (folder / "answers.json").write_text(json.dumps(answers() if good else {}), encoding="utf-8")
    return folder
