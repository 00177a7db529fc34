from __future__ import annotations

import json
from pathlib import Path

from mlops.local.daemon.environment import offer_config_json
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout


def test_a_checkouts_own_workspace_is_found_from_any_of_its_folders(tmp_path: Path) -> None:
    layout = Layout(root=tmp_path / ".mlops" / "local", cache=tmp_path / "cache")

    offer_config_json(layout, Config())
    offer_config_json(layout, Config())

    for file in (layout.root / "config.json", tmp_path / ".azureml" / "config.json"):
        assert json.loads(file.read_text(encoding="utf-8"))["workspace_name"] == "local"


def test_the_config_of_a_real_workspace_is_left_alone(tmp_path: Path) -> None:
    real = tmp_path / ".azureml" / "config.json"
    real.parent.mkdir()
    for text in ('{"subscription_id": "real"}', "not json", "[]"):
        real.write_text(text, encoding="utf-8")

        offer_config_json(Layout(root=tmp_path / ".mlops" / "local", cache=tmp_path), Config())

        assert real.read_text(encoding="utf-8") == text


def test_a_workspace_elsewhere_writes_nothing_outside_its_home(tmp_path: Path) -> None:
    offer_config_json(Layout(root=tmp_path / "home" / "local", cache=tmp_path), Config())

    assert not (tmp_path / ".azureml").exists()
