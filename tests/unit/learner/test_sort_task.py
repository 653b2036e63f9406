"""What the sort demo starts from."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from volley.learner.sort_task import (
    NUM_DEMONSTRATIONS,
    NUM_HELD_OUT,
    NUM_TRAIN,
    TAGS,
    make_tokenizer,
    save_model,
    write_data,
)


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


def test_the_tokenizer_has_64_tokens_and_gives_back_what_it_took():
    tokenizer = make_tokenizer()
    assert len(tokenizer) == 64
    text = "sort qhzbtwea= 7?\n" + "".join(TAGS)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 18 + len(TAGS) == 26
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_the_model_has_as_many_parameters_as_the_demo_says(tmp_path):
    save_model(tmp_path, seed=0)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == 303_872
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["vocab_size"], config["head_dim"]) == (64, 32)
