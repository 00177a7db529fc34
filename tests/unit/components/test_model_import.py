from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chat_completion.common.model_folder import find_model
from chat_completion.common.refusal import Refusal
from chat_completion.data.template import PHI3_TEMPLATE
from tests.unit.components.conftest import REPO, StandIn, run_step


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_from_the_offline_hub_cache(standin: StandIn, tmp_path: Path) -> None:
    done = run_step("model_import", env={"HF_HOME": str(standin.hub)}, huggingface_id=REPO, output_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path) == weights(standin.model)
    assert not any(path.is_symlink() for path in tmp_path.iterdir())
    metadata = json.loads((tmp_path / "model_import.json").read_text())
    assert metadata == {"source": "huggingface_id", "name": REPO, "model_type": "phi3", "phi3_format": True}


def test_a_model_that_is_not_in_the_cache_is_refused(standin: StandIn, tmp_path: Path) -> None:
    done = run_step("model_import", env={"HF_HOME": str(standin.hub)}, huggingface_id="no/such", output_dir=tmp_path)
    assert done.returncode == 2
    assert "'no/such' is not in the offline cache" in done.stderr
    assert "Traceback" not in done.stderr


def test_from_the_registrys_mlflow_model(standin: StandIn, tmp_path: Path) -> None:
    done = run_step("model_import", mlflow_model_path=standin.mlflow, output_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path) == weights(standin.model)
    assert (tmp_path / "chat_template.jinja").read_text() == PHI3_TEMPLATE
    assert (tmp_path / "generation_config.json").is_file()


def test_old_templates_of_the_family_are_replaced(standin: StandIn, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(standin.model, old)
    (old / "chat_template.jinja").unlink()
    settings = json.loads((old / "tokenizer_config.json").read_text())
    (old / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "{{ bos_token }}old"}))
    (old / "evil.py").write_text("raise SystemExit")
    (old / "optimizer.pt").write_bytes(b"x")
    done = run_step("model_import", pytorch_model_path=old, output_dir=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "evil.py, optimizer.pt" in done.stdout
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == PHI3_TEMPLATE
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".json", ".jinja", ".safetensors"}


def test_two_sources_are_refused(standin: StandIn, tmp_path: Path) -> None:
    done = run_step("model_import", huggingface_id=REPO, mlflow_model_path=standin.mlflow, output_dir=tmp_path)
    assert done.returncode == 2
    assert "got huggingface_id and mlflow_model_path" in done.stderr


@pytest.mark.parametrize("layout", ["", "data/model", "model", "artifacts/model"])
def test_models_are_found_in_any_layout(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    tokenizer = tmp_path / "components" / "tokenizer" if layout == "model" else folder
    tokenizer.mkdir(parents=True, exist_ok=True)
    (tokenizer / "tokenizer.json").touch()
    assert find_model(tmp_path) == (folder, tokenizer)


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(Refusal, match=r"'pytorch_model.bin' .* only safetensors is read"):
        find_model(tmp_path)


def test_no_model_and_two_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no model in"):
        find_model(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        (tmp_path / name / "model.safetensors").touch()
    with pytest.raises(Refusal, match="more than one model"):
        find_model(tmp_path)
