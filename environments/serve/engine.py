"""Starts vLLM's server on a deployment's model: the command of the engine's image.

It finds the weights and the tokenizer below AZUREML_MODEL_DIR, in a model that our pipeline has packed as in one of the
registry's pipeline, and becomes `vllm serve` with the contract of this endpoint before it (front.py). Environment
variables:

    MLOPS_ENGINE_ARGS   more arguments for vLLM, which win over those chosen here: "--max-model-len 8192"
    MLOPS_HOST          address to listen on (0.0.0.0)
    MLOPS_PORT          port to listen on (5001)
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAME = "chat"
"""The model's name for OpenAI's clients."""
UNSAFE = (
    *("--trust-remote-code", "--trust-request-chat-template", "--enable-prompt-embeds"),
    *("--enable-log-requests", "--enable-log-outputs", "--api-key", "--config"),
)
"""What runs code of the model, or reads a request's as more than text; what writes prompts, answers or a key to the log
(the endpoint checks keys itself); and the file that could hold any of these."""
LIMITS = {"VLLM_MAX_N_SEQUENCES": "8", "VLLM_MAX_COMPLETION_PROMPTS": "256", "VLLM_MAX_STOP_STRINGS": "16"}
"""What one request may ask for: vLLM's own 16,384 answers to each of 1,024 prompts would keep all others waiting for
hours, its own 4 stop texts are fewer than the contract's."""


class NotServed(Exception):
    """A deployment that cannot start, and why."""


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk.

    Attributes:
        weights: a folder with config.json and safetensors.
        tokenizer: the folder with its tokenizer and chat template; often the same.
        shard_sizes: numbers of attention heads, of key-value heads and of a layer's inner units; an engine of n GPUs
            splits each evenly.
    """

    weights: Path
    tokenizer: Path
    shard_sizes: tuple[int, ...]


def find_model(root: Path) -> ModelFiles:
    """The one model below a folder.

    Raises:
        NotServed: there is none, there are several, or it lacks what chatting needs.
    """
    weights = [path.parent for path in sorted(root.rglob("config.json")) if any(path.parent.glob("*.safetensors"))]
    if len(weights) != 1:
        what = "no model" if not weights else f"{len(weights)} models"
        raise NotServed(f"{what} below AZUREML_MODEL_DIR '{root}': one folder must hold config.json and *.safetensors")
    tokenizers = [path.parent for path in sorted(root.rglob("tokenizer.json"))]
    if not tokenizers:
        raise NotServed(f"the model in '{weights[0]}' has no tokenizer.json")
    tokenizer = weights[0] if weights[0] in tokenizers else tokenizers[0]
    has_template = (tokenizer / "chat_template.jinja").is_file()
    if not has_template and not read(tokenizer / "tokenizer_config.json").get("chat_template"):
        raise NotServed(f"the tokenizer in '{tokenizer}' has no chat template")
    config = read(weights[0] / "config.json")
    sizes = [config.get(name) for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size")]
    return ModelFiles(weights[0], tokenizer, tuple(int(number) for number in sizes if number) if sizes[0] else (1,))


def read(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        NotServed: it is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotServed(f"'{path}' cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise NotServed(f"'{path}' holds no JSON object")
    return value


def arguments(model: ModelFiles, environment: Mapping[str, str], *, gpus: int) -> list[str]:
    """Arguments of vLLM's server.

    Args:
        model: the model.
        environment: the process's variables.
        gpus: how many the machine has; with none, weights are computed with in 32 bits and nothing is compiled.

    Raises:
        NotServed: a variable is wrong.
    """
    options = {
        "--model": str(model.weights),
        "--tokenizer": str(model.tokenizer),
        "--served-model-name": NAME,
        "--host": environment.get("MLOPS_HOST") or "0.0.0.0",  # noqa: S104 - a container's own network
        "--port": environment.get("MLOPS_PORT") or "5001",
        "--middleware": "front.Front",
        "--dtype": "auto" if gpus else "float32",
        "--tensor-parallel-size": str(
            max(n for n in range(1, max(gpus, 1) + 1) if not any(number % n for number in model.shard_sizes))
        ),
        "--generation-config": "vllm",  # a request says how to generate, not a file of the model
        "--disable-access-log-for-endpoints": "/,/health,/metrics",
    }
    switches = ["--no-enable-log-requests", *([] if gpus else ["--enforce-eager"])]
    return [word for pair in options.items() for word in pair] + switches + extra(environment)


def extra(environment: Mapping[str, str]) -> list[str]:
    """The arguments that MLOPS_ENGINE_ARGS adds.

    Raises:
        NotServed: they are no arguments, or one of UNSAFE is among them.
    """
    text = environment.get("MLOPS_ENGINE_ARGS", "")
    try:
        arguments = shlex.split(text)
    except ValueError as error:
        raise NotServed(f"MLOPS_ENGINE_ARGS is {text!r}: {error}") from error
    for word in arguments:
        name = word.partition("=")[0].replace("_", "-")
        if len(name) > 2 and any(unsafe.startswith(name) for unsafe in UNSAFE):
            raise NotServed(f"MLOPS_ENGINE_ARGS has '{word}', which is not allowed here")
    return arguments


def variables(model: ModelFiles, environment: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: nothing is fetched, nothing is reported to anybody, this folder can be imported."""
    path = os.pathsep.join(filter(None, [str(HERE), environment.get("PYTHONPATH", "")]))
    # The first two are for a machine without GPUs: GiB for the attention's cache, and threads that the system places,
    # since both slots of a laptop would else be tied to the same core.
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        **LIMITS,
        **environment,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "MLOPS_ENGINE_TOKENIZER": str(model.tokenizer),
        "PYTHONPATH": path,
    }


def command(environment: Mapping[str, str], *, gpus: int) -> tuple[list[str], dict[str, str]]:
    """The server's command line and its environment.

    Raises:
        NotServed: this deployment cannot be started.
    """
    root = environment.get("AZUREML_MODEL_DIR")
    if not root:
        raise NotServed("AZUREML_MODEL_DIR is not set")
    model = find_model(Path(root))
    # The module behind `vllm serve`: the program itself asks for a distribution named 'vllm', which the build for
    # CPUs is not.
    program = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    return [*program, *arguments(model, environment, gpus=gpus)], variables(model, environment)


def main() -> None:
    """Becomes the server, or says in one line why not."""
    try:
        arguments, environment = command(os.environ, gpus=len(list(Path("/dev").glob("nvidia[0-9]*"))))
    except NotServed as error:
        sys.exit(str(error))
    print(shlex.join(arguments), flush=True)
    os.execve(sys.executable, arguments, environment)  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
