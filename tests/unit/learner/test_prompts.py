import json
from pathlib import Path

import pytest

from volley.learner.prompts import Prompts, read_rows, tokenise_rows
from volley.telemetry.stops import ExitCode, Stop


def tokenise(prompts):
    return [[len(word) for word in str(prompt).split()] for prompt in prompts]


def write(folder: Path, *lines: object) -> Path:
    data = folder / "data.jsonl"
    data.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return data


def read(data: Path, max_prompt_length: int = 10) -> Prompts:
    return tokenise_rows(read_rows(data), tokenise, max_prompt_length, seed=0)


def complaint(data: Path) -> str:
    with pytest.raises(Stop) as caught:
        read(data)
    assert caught.value.code is ExitCode.CONFIG
    return caught.value.message


def test_a_row_keeps_its_tokens_and_its_other_columns(tmp_path):
    prompts = read(write(tmp_path, {"prompt": "a bcd", "answer": 7}, "", {"prompt": "ef"}))
    by_text = {prompts[n].prompt: prompts[n] for n in range(2)}
    assert by_text["a bcd"].prompt_ids == (1, 3)
    assert by_text["a bcd"].columns == {"answer": 7}
    assert by_text["ef"].columns == {}


def test_every_pass_yields_every_row_once_in_its_own_order(tmp_path):
    prompts = read(write(tmp_path, *({"prompt": f"p{i}"} for i in range(50))))
    passes = [[prompts[n].prompt for n in range(k * 50, k * 50 + 50)] for k in range(3)]
    assert all(sorted(order) == sorted(passes[0]) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    again = read(tmp_path / "data.jsonl")
    assert [again[n].prompt for n in range(100, 150)] == passes[2]


def test_chat_messages_are_prompts(tmp_path):
    chat = [{"role": "user", "content": "hello"}]
    assert read(write(tmp_path, {"prompt": chat}))[0].prompt == chat


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"question": "x"}, "data.jsonl:2: column 'prompt' is missing (columns here: question)"),
        ("{not json", "data.jsonl:2: not JSON"),
        ("[1]", "data.jsonl:2: not an object"),
        ({"prompt": 3}, "data.jsonl:2: 'prompt' must be text or a list"),
        ({"prompt": [{"role": "user"}]}, "data.jsonl:2: 'prompt' must be text or a list"),
        ({"prompt": " "}, "data.jsonl:2: the prompt has no tokens"),
        ({"prompt": "a " * 11}, "data.jsonl:2: the prompt has 11 tokens"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, line, words):
    assert words in complaint(write(tmp_path, {"prompt": "fine"}, line))


def test_an_empty_and_a_missing_file_are_said(tmp_path):
    assert "is empty" in complaint(write(tmp_path))
    assert "cannot read" in complaint(tmp_path / "absent.jsonl")
