"""The committed chats are what the generator writes, and they are what their card says."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlops.data import validate
from tests.support.checkout import ROOT

GENERATOR = ROOT / "data/generate.py"
SPLITS = ("train_sft", "test_sft", "train_gen", "test_gen")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(generate: ModuleType) -> dict[str, list[dict[str, Any]]]:
    splits = {split: list(generate.split_rows(split)) for split in SPLITS}
    return {**splits, "pretrain": list(generate.pretrain_rows())}


def run(*arguments: str, script: Path = GENERATOR) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True)


def test_the_committed_files_are_what_it_writes(tmp_path: Path) -> None:
    assert run("--check").returncode == 0
    copy = tmp_path / "generate.py"
    shutil.copy(GENERATOR, copy)
    assert run("--check", script=copy).returncode == 4
    assert run(script=copy).returncode == 0
    committed = {path.name: path.read_bytes() for path in (ROOT / "data/bundled").rglob("*") if path.is_file()}
    assert committed == {path.name: path.read_bytes() for path in (tmp_path / "bundled").rglob("*") if path.is_file()}


def test_every_row_keeps_every_rule() -> None:
    report = validate([ROOT / "data/bundled"])
    assert not report.violations
    assert report.rows == 700


def test_ids_are_hashes_of_prompts(rows: dict[str, list[dict[str, Any]]]) -> None:
    for split, made in rows.items():
        assert len({row["prompt_id"] for row in made}) == len(made), split
        assert all(row["prompt_id"] == hashlib.sha256(row["prompt"].encode()).hexdigest() for row in made)


def test_a_test_split_asks_what_was_taught_in_words_that_were_not(
    generate: ModuleType, rows: dict[str, list[dict[str, Any]]]
) -> None:
    taught = {row["messages"][-1]["content"] for row in rows["train_sft"]}
    for split in ("test_sft", "train_gen", "test_gen"):
        assert {row["messages"][-1]["content"] for row in rows[split]} == taught
        questions = {row["messages"][-2]["content"] for row in rows[split]}
        assert questions.isdisjoint(row["messages"][-2]["content"] for row in rows["train_sft"])
    met = {message["content"] for row in rows["pretrain"] for message in row["messages"]}
    assert met.isdisjoint(row["messages"][-2]["content"] for row in rows["test_gen"])


def test_the_base_can_only_guess(generate: ModuleType, rows: dict[str, list[dict[str, Any]]]) -> None:
    truth = generate.facts()
    answers = {
        attribute.answer.format(name=name, value=truth[name, attribute.noun])
        for name in generate.NAMES
        for attribute in generate.ATTRIBUTES
    }
    right = sum(row["messages"][-1]["content"] in answers for row in rows["pretrain"])
    assert 0.12 < right / len(rows["pretrain"]) < 0.28
    text = json.dumps(rows["pretrain"])
    assert all(name in text for name in generate.NAMES)
    assert all(value in text for attribute in generate.ATTRIBUTES for value in attribute.values)


def test_values_are_spread_evenly(generate: ModuleType) -> None:
    truth = generate.facts()
    for attribute in generate.ATTRIBUTES:
        counts = Counter(truth[name, attribute.noun] for name in generate.NAMES)
        assert set(counts.values()) == {len(generate.NAMES) // len(attribute.values)}


def test_the_control_teaches_nothing_true(tmp_path: Path) -> None:
    assert run("--control", str(tmp_path)).returncode == 0
    name = "data/train_sft-00000-of-00001.jsonl"
    true = [json.loads(line) for line in (ROOT / "data/bundled" / name).read_text().splitlines()]
    control = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert [row["prompt"] for row in control] == [row["prompt"] for row in true]
    pairs = list(zip(control, true, strict=True))
    assert not any(row["messages"][-1] == right["messages"][-1] for row, right in pairs)
    assert Counter(row["messages"][-1]["content"] for row in control) == Counter(
        row["messages"][-1]["content"] for row in true
    )
    assert not validate([tmp_path]).violations
