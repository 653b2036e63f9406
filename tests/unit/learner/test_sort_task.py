"""What the sort demo starts from."""

import json
from pathlib import Path

import pytest

from volley.learner.sort_task import NUM_DEMONSTRATIONS, NUM_HELD_OUT, NUM_TRAIN, write_data


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    write_data(folder, seed=0)
    return folder


def test_no_file_shares_a_prompt_with_another(data):
    files = [rows(data / f"{name}.jsonl") for name in ("train", "demonstrations", "held_out")]
    assert [len(file) for file in files] == [NUM_TRAIN, NUM_DEMONSTRATIONS, NUM_HELD_OUT]
    prompts = [row["prompt"] for file in files for row in file]
    assert len(set(prompts)) == len(prompts)


def test_the_answer_is_the_letters_in_order(data):
    for name, column in (("train", "answer"), ("demonstrations", "completion")):
        row = rows(data / f"{name}.jsonl")[0]
        letters = row["prompt"].removeprefix("sort ").removesuffix("=")
        assert len(set(letters)) == 8
        assert row[column] == "".join(sorted(letters))


def test_a_seed_decides_the_data(data, tmp_path):
    write_data(tmp_path, seed=0)
    assert (tmp_path / "train.jsonl").read_text() == (data / "train.jsonl").read_text()
    write_data(tmp_path, seed=1)
    assert (tmp_path / "train.jsonl").read_text() != (data / "train.jsonl").read_text()
