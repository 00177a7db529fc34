"""Folders in, folders out: both ways, the same bytes each time, nothing half written."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.core.errors import DataInvalid, PreconditionError, UsageError
from mlops.data import Manifest, Request, prepare
from tests.support.checkout import ROOT

SPLITS = ("train_sft", "test_sft", "train_gen", "test_gen")


@pytest.fixture
def four(write: Any, many: Any) -> Path:
    """A folder with the four splits, forty rows each."""
    for index, split in enumerate(SPLITS):
        path = write(f"source/data/{split}-00000-of-00001.jsonl", many(40, start=40 * index))
    return Path(path.parents[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def ids(path: Path) -> list[str]:
    return [json.loads(line)["prompt_id"] for line in path.read_bytes().splitlines()]


def test_a_percentage_of_each_split(four: Path, tmp_path: Path) -> None:
    preparation = prepare(Request(dataset=str(four), percent=5), home=tmp_path / "home")
    assert preparation.folder == tmp_path / "home" / preparation.manifest.content_hash
    assert {entry.name: entry.rows for entry in preparation.manifest.files} == {f"{split}.jsonl": 2 for split in SPLITS}
    for split in SPLITS:
        source = four / "data" / f"{split}-00000-of-00001.jsonl"
        assert ids(preparation.folder / f"{split}.jsonl") == ids(source)[:2]
    assert preparation.manifest.seed is None


def test_the_manifest_says_what_the_files_are(four: Path, tmp_path: Path) -> None:
    preparation = prepare(Request(dataset=str(four)), home=tmp_path / "home")
    manifest = Manifest.read(preparation.folder)
    assert manifest == preparation.manifest
    for entry in manifest.files:
        raw = (preparation.folder / entry.name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert entry.rows == raw.count(b"\n") == 40
    assert {path.name for path in preparation.folder.iterdir()} == {entry.name for entry in manifest.files} | {
        "manifest.json"
    }


def test_one_split_is_cut(four: Path, tmp_path: Path) -> None:
    request = Request(dataset=str(four), way="cut", percent=50, seed=7)
    preparation = prepare(request, home=tmp_path / "home")
    train, test = ids(preparation.folder / "train.jsonl"), ids(preparation.folder / "test.jsonl")
    assert (len(train), len(test)) == (16, 4)
    assert set(train) | set(test) == set(ids(four / "data/train_sft-00000-of-00001.jsonl")[:20])
    assert preparation.manifest.seed == 7
    other = prepare(Request(dataset=str(four), way="cut", percent=50, seed=8), home=tmp_path / "home")
    assert other.manifest.content_hash != preparation.manifest.content_hash


def test_another_split_can_be_cut(four: Path, tmp_path: Path) -> None:
    preparation = prepare(Request(dataset=str(four), way="cut", train_split="train_gen"), home=tmp_path / "home")
    assert set(ids(preparation.folder / "train.jsonl")) <= set(ids(four / "data/train_gen-00000-of-00001.jsonl"))
    with pytest.raises(UsageError, match="no split 'train'"):
        prepare(Request(dataset=str(four), way="cut", train_split="train"), home=tmp_path / "home")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.integers(10, 60), percent=st.floats(20, 100), seed=st.integers(), shards=st.integers(1, 3))
def test_a_cut_loses_and_doubles_nothing(
    many: Any, tmp_path_factory: pytest.TempPathFactory, rows: int, percent: float, seed: int, shards: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    generated = many(rows)
    for shard in range(shards):
        part = generated[shard * rows // shards : (shard + 1) * rows // shards]
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"train_sft-{shard:05}-of-{shards:05}.jsonl").write_text(text)
    preparation = prepare(Request(dataset=str(folder), way="cut", percent=percent, seed=seed), home=folder / "home")
    train, test = ids(preparation.folder / "train.jsonl"), ids(preparation.folder / "test.jsonl")
    taken = round(rows * percent / 100)
    assert sorted(train + test) == sorted(row["prompt_id"] for row in generated[:taken])
    assert len(test) == -(-taken // 5)


def test_the_same_input_gives_the_same_bytes(four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(Request(dataset="source"), home=tmp_path / "one", root=tmp_path)
    monkeypatch.chdir(tmp_path)
    second = prepare(Request(dataset="source"), home=tmp_path / "two")
    assert not second.repeated
    assert contents(first.folder) == contents(second.folder)


@pytest.mark.parametrize("output", [None, "out"])
def test_a_second_run_does_nothing(four: Path, tmp_path: Path, output: Any) -> None:
    target = output and tmp_path / output
    request = Request(dataset=str(four))
    first = prepare(request, home=tmp_path / "home", output=target)
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = prepare(request, home=tmp_path / "home", output=target)
    assert (second.repeated, second.folder, second.manifest) == (True, first.folder, first.manifest)
    assert stamps == {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}


def test_a_changed_source_or_a_damaged_result_is_noticed(four: Path, tmp_path: Path, many: Any, write: Any) -> None:
    request = Request(dataset=str(four))
    first = prepare(request, home=tmp_path / "home")
    (first.folder / "test_gen.jsonl").unlink()
    again = prepare(request, home=tmp_path / "home")
    assert not again.repeated
    assert contents(again.folder)["test_gen.jsonl"]
    write("source/data/test_gen-00000-of-00001.jsonl", many(41, start=200))
    changed = prepare(request, home=tmp_path / "home")
    assert not changed.repeated
    assert changed.manifest.content_hash != first.manifest.content_hash


def test_equal_contents_of_other_requests_share_a_folder(four: Path, tmp_path: Path) -> None:
    first = prepare(Request(dataset=str(four), seed=1), home=tmp_path / "home")
    second = prepare(Request(dataset=str(four), seed=2), home=tmp_path / "home")
    assert first.folder == second.folder


def test_a_folder_that_others_read_is_left_alone(four: Path, tmp_path: Path) -> None:
    first = prepare(Request(dataset=str(four), seed=1), home=tmp_path / "home")
    nodes = {entry.name: (first.folder / entry.name).stat().st_ino for entry in first.manifest.files}
    again = prepare(Request(dataset=str(four / "data"), seed=2), home=tmp_path / "home")
    assert not again.repeated
    assert Manifest.read(first.folder).dataset == str(four / "data")
    assert nodes == {entry.name: (first.folder / entry.name).stat().st_ino for entry in first.manifest.files}


def test_many_at_once_end_with_the_same_folder(four: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        preparations = list(
            pool.map(lambda seed: prepare(Request(dataset=str(four), seed=seed), home=tmp_path), range(16))
        )
    assert len({each.folder for each in preparations}) == 1
    assert preparations[0].manifest.is_whole(preparations[0].folder)
    assert not list(tmp_path.glob(".part-*"))


def test_bad_rows_stop_and_leave_nothing(four: Path, tmp_path: Path, write: Any, many: Any, chat: Any) -> None:
    rows = [*many(3, start=300), chat("q", ""), chat("q", "a", prompt="p"), chat("r", "")]
    write("source/data/train_sft-00000-of-00001.jsonl", rows)
    with pytest.raises(DataInvalid) as caught:
        prepare(Request(dataset=str(four)), home=tmp_path / "home")
    assert caught.value.exit_code == 4
    assert str(caught.value.location).endswith("train_sft-00000-of-00001.jsonl:4")
    assert any("empty_content: 2 rows" in line and ":4:" in line for line in caught.value.details)
    assert any("prompt: 1 row" in line and ":5:" in line for line in caught.value.details)
    assert list((tmp_path / "home").iterdir()) == []


def test_bad_rows_are_left_out_on_request(four: Path, tmp_path: Path, write: Any, many: Any, chat: Any) -> None:
    good = many(3, start=300)
    raw = b"".join(json.dumps(row).encode() + b"\n" for row in [good[0], chat("q", ""), *good[1:]])
    source = write("source/data/train_sft-00000-of-00001.jsonl", raw + b"broken \xff\n" + b'{"prompt": "cut o')
    preparation = prepare(Request(dataset=str(four), drop_invalid=True), home=tmp_path / "home")
    assert ids(preparation.folder / "train_sft.jsonl") == [row["prompt_id"] for row in good]
    rejected = [json.loads(line) for line in (preparation.folder / "rejected.jsonl").read_text().splitlines()]
    assert [(each["rule"], each["line"]) for each in rejected] == [("empty_content", 2), ("json", 5), ("truncated", 6)]
    assert all(each["reason"] and each["file"].endswith(source.name) for each in rejected)
    assert json.loads(rejected[0]["row"])["prompt"] == "q"
    assert preparation.manifest.rejected is not None
    assert preparation.manifest.rejected.rows == 3
    assert preparation.report is not None
    assert preparation.report.invalid == 3
    # The prepared folder can be read again: what was rejected is no split.
    assert (
        prepare(Request(dataset=str(preparation.folder)), home=tmp_path / "two").manifest.files
        == preparation.manifest.files
    )


def test_a_split_of_which_nothing_is_left(four: Path, tmp_path: Path, write: Any, chat: Any) -> None:
    write("source/data/test_gen-00000-of-00001.jsonl", [chat("q", "")])
    with pytest.raises(DataInvalid, match="nothing is left of the split 'test_gen'"):
        prepare(Request(dataset=str(four), drop_invalid=True), home=tmp_path / "home")
    with pytest.raises(DataInvalid, match="nothing is left"):
        prepare(Request(dataset=str(four), percent=0.1), home=tmp_path / "home")


def test_a_conversation_in_train_and_test_is_named_in_test(four: Path, tmp_path: Path, write: Any, many: Any) -> None:
    write("source/data/test_sft-00000-of-00001.jsonl", [*many(1, start=500), *many(1)])
    with pytest.raises(DataInvalid) as caught:
        prepare(Request(dataset=str(four)), home=tmp_path / "home")
    assert str(caught.value.location).endswith("test_sft-00000-of-00001.jsonl:2")


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_a_percentage_that_is_none(four: Path, tmp_path: Path, percent: float) -> None:
    with pytest.raises(UsageError, match="percent"):
        prepare(Request(dataset=str(four), percent=percent), home=tmp_path / "home")


def test_what_cannot_be_prepared(tmp_path: Path, write: Any, many: Any) -> None:
    with pytest.raises(UsageError, match="no folder or file"):
        prepare(Request(dataset=str(tmp_path / "nowhere")), home=tmp_path / "home")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file with rows"):
        prepare(Request(dataset=str(tmp_path / "empty")), home=tmp_path / "home")
    path = write("only/train_sft.jsonl", many(5))
    with pytest.raises(UsageError, match="no test split") as caught:
        prepare(Request(dataset=str(path.parent)), home=tmp_path / "home")
    assert "--way cut" in str(caught.value.hint)
    write("tests/test_sft.jsonl", many(5))
    with pytest.raises(UsageError, match="no training split"):
        prepare(Request(dataset=str(tmp_path / "tests")), home=tmp_path / "home")


def test_one_file_can_be_cut(tmp_path: Path, write: Any, many: Any) -> None:
    path = write("chats.jsonl", many(10))
    preparation = prepare(Request(dataset=str(path), way="cut"), home=tmp_path / "home")
    assert {entry.name: entry.rows for entry in preparation.manifest.files} == {"train.jsonl": 8, "test.jsonl": 2}


def test_a_folder_that_is_not_ours_is_never_replaced(four: Path, tmp_path: Path, write: Any) -> None:
    write("precious/thesis.txt", b"years of work")
    with pytest.raises(UsageError, match="not empty"):
        prepare(Request(dataset=str(four)), home=tmp_path / "home", output=tmp_path / "precious")
    assert (tmp_path / "precious/thesis.txt").read_bytes() == b"years of work"
    with pytest.raises(UsageError, match="is a file"):
        prepare(Request(dataset=str(four)), home=tmp_path / "home", output=tmp_path / "precious/thesis.txt")
    out = tmp_path / "out"
    prepare(Request(dataset=str(four)), home=tmp_path / "home", output=out)
    preparation = prepare(Request(dataset=str(four), percent=50), home=tmp_path / "home", output=out)
    assert preparation.folder == out
    assert Manifest.read(out).percent == 50


def test_an_output_that_cannot_be_written(four: Path, tmp_path: Path, write: Any) -> None:
    write("blocked", b"a file where a folder must be")
    with pytest.raises(PreconditionError, match="cannot write"):
        prepare(Request(dataset=str(four)), home=tmp_path / "blocked" / "home")


def test_the_file_of_a_split(four: Path, tmp_path: Path) -> None:
    preparation = prepare(Request(dataset=str(four)), home=tmp_path / "home")
    assert preparation.file("test_gen").name == "test_gen.jsonl"
    assert preparation.file("train", or_first=True).name == "train_sft.jsonl"
    assert preparation.file("test", or_first=False).name == "test_sft.jsonl"
    with pytest.raises(UsageError, match="no split 'dev'"):
        preparation.file("dev")


def test_killed_at_any_moment_nothing_half_written_is_left(tmp_path: Path, write: Any, many: Any) -> None:
    source = write("source/train_sft.jsonl", many(30_000)).parent
    write("source/test_sft.jsonl", many(100, start=40_000))
    program = (
        "import sys; from pathlib import Path; from mlops.data import Request, prepare\n"
        "print('ready', flush=True)\n"
        "prepare(Request(dataset=sys.argv[1]), home=Path(sys.argv[2]))\n"
    )
    repository = ROOT
    home = tmp_path / "home"
    for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(source), str(home)],
            cwd=repository,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
        for folder in home.glob("[!.]*") if home.exists() else []:
            assert folder.name == "requests" or Manifest.read(folder).is_whole(folder)
    preparation = prepare(Request(dataset=str(source)), home=home)
    assert preparation.manifest.rows == 30_100
    # What the killed ones left has been swept away.
    assert {path.name for path in home.iterdir()} == {"requests", preparation.manifest.content_hash}
