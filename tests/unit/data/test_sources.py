"""Which files belong to which split, and what happens where there is no network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlops.core.errors import DataInvalid, UsageError
from mlops.data.preview import preview
from mlops.data.sources import locate, split_name
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S


def names(folder: Path) -> dict[str, list[str]]:
    source = locate(str(folder), revision=None)
    return {split: [path.name for path in files] for split, files in source.splits.items()}


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train_sft.jsonl", "train_sft"),
        ("data/train_sft-00000-of-00003-a3ecf92756993583.parquet", "train_sft"),
        ("test_gen-00000-of-00001.jsonl.gz", "test_gen"),
        ("saved/train/data-00000-of-00002.arrow", "train"),
        ("validation.json", "validation"),
    ],
)
def test_the_name_of_a_file_says_its_split(path: str, split: str) -> None:
    assert split_name(Path(path)) == split


def test_shards_stay_in_order_and_training_comes_first(write: Any, many: Any, tmp_path: Path) -> None:
    for name in ("test_sft-00000-of-00001", "train_sft-00001-of-00002", "train_sft-00000-of-00002"):
        write(f"set/data/{name}.jsonl", many(1))
    write("set/README.md", b"# No head\n")
    write("set/.cache/train_sft.jsonl", many(1))
    assert names(tmp_path / "set") == {
        "train_sft": ["train_sft-00000-of-00002.jsonl", "train_sft-00001-of-00002.jsonl"],
        "test_sft": ["test_sft-00000-of-00001.jsonl"],
    }


def test_a_card_decides(write: Any, many: Any, tmp_path: Path) -> None:
    for name in ("a", "b", "other"):
        write(f"set/{name}.jsonl", many(1))
    card = (
        "---\nconfigs:\n- config_name: small\n  data_files: [{split: train, path: a.jsonl}]\n- config_name: default\n"
    )
    card += "  data_files:\n  - {split: train, path: [a.jsonl, b.jsonl]}\n  - {split: test, path: oth*}\n---\n# Chats\n"
    write("set/README.md", card.encode())
    assert names(tmp_path / "set") == {"train": ["a.jsonl", "b.jsonl"], "test": ["other.jsonl"]}


def test_a_card_that_names_what_is_not_there(write: Any, tmp_path: Path) -> None:
    write("set/README.md", b"---\nconfigs:\n- data_files:\n  - {split: train, path: data/train-*}\n---\n")
    with pytest.raises(DataInvalid, match="data/train-"):
        locate(str(tmp_path / "set"), revision=None)
    write("set/README.md", b"---\n{ not yaml\n---\n")
    with pytest.raises(DataInvalid, match="not YAML"):
        locate(str(tmp_path / "set"), revision=None)


def test_one_file_of_any_name_is_for_training(write: Any, many: Any, tmp_path: Path) -> None:
    write("set/chats.jsonl", many(1))
    assert names(tmp_path / "set") == {"train": ["chats.jsonl"]}


def test_the_bundled_chats_are_found_as_datasets_finds_them(tmp_path: Path) -> None:
    import datasets

    folder = ROOT / "data/bundled"
    theirs = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    ours = {part.split: part.rows for part in preview(str(folder), rows=10_000)}
    assert {split: list(rows) for split, rows in theirs.items()} == {split: list(rows) for split, rows in ours.items()}


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    for name in ("./chats", str(tmp_path / "chats"), "chats/train.jsonl", "a/b/c", "../up"):
        with pytest.raises(UsageError, match="no folder or file"):
            locate(name, revision=None)
    (tmp_path / "chats.csv").write_text("a,b\n")
    with pytest.raises(UsageError, match="none of"):
        locate(str(tmp_path / "chats.csv"), revision=None)


@pytest.mark.parametrize("extra", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_the_hub_cannot_be_reached(tmp_path: Path, extra: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    command = [sys.executable, "-m", "mlops", "data", "prepare", "--dataset", "HuggingFaceH4/ultrachat_200k", "--json"]
    environment |= {"HF_HOME": str(tmp_path / "hf"), "MLOPS_HOME": str(tmp_path), **extra}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "HuggingFaceH4/ultrachat_200k" in json.loads(done.stdout)["error"]["message"]
