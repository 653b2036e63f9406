"""`volley check`: what a run would do is shown, and what it would stumble over is found."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.chats import ADD, CHATML, save_chat_model
from tests.command_line import END_S, Ended, under_way, volley
from tests.processes import CONFIG, TOKEN, write_run
from tests.waiting import wait_until
from volley.telemetry.stops import ERROR_PREFIX, ExitCode

pytestmark = pytest.mark.e2e

ROWS = """
{"prompt": "sort ba=", "completion": "ab"}
{"prompt": "sort dc=", "completion": "cd"}
"""
MORE = """
[cold_start]
data = "shown.jsonl"
[evaluation]
data = "held_out.jsonl"
"""
TOOLS_CONFIG = """
[model]
path = "model"
dtype = "float32"
[data]
train = "train.jsonl"
[cold_start]
data = "shown.jsonl"
[environment]
name = "tools"
[environment.options]
functions = ["tools:add"]
[devices]
engine = "transformers"
"""
# What a tool has answered is not what the model is shown.
REWRITING = CHATML.replace("+ m.content + '\\n</", "+ (m.content | tojson) + '\\n</")
CHAT = [{"role": "user", "content": "1+1?"}]


def check(folder: Path, options: str = "", variables: Mapping[str, str] | None = None) -> Ended:
    """What `volley check` says, which leaves nothing behind."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    before = sorted(folder.rglob("*"))
    own = {"VOLLEY_TOKEN": TOKEN, "VOLLEY_REDIS_URL": "", "TMPDIR": str(temporary)}
    command = f"check config.toml --set devices.engine=transformers {options}"
    ended = volley(command, folder, {**own, **(variables or {})})
    (folder / "said.txt").unlink()
    left = [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]
    assert left == before
    return ended


def lines(ended: Ended, level: str) -> list[str]:
    return [line for line in ended.output.splitlines() if line.startswith(level)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder in which nothing is wrong."""
    write_run(tmp_path, CONFIG + MORE)
    (tmp_path / "shown.jsonl").write_text(ROWS)
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "sort zy=", "answer": "yz"}\n')
    return tmp_path


@pytest.mark.redis
def test_a_good_config_is_shown_from_prompt_to_step(run):
    ended = check(run)
    assert ended.exit_code == ExitCode.DONE, ended.output
    assert lines(ended, "bad") == []
    for words in (
        # the prompt, and the first two of its tokens
        "s o r t   ",
        "Its 9 tokens\n21 's'  17 'o'",
        "3 of its 11 tokens trained",
        "[trained]ab<eos>",
        "4 of 4: reward",
        "rewards:variety   reward   advantage",
        "25,888 parameters, float32 on cpu, context 64, no chat template",
        "16 prompts of up to 9 tokens, 56 fit; columns beside prompt: answer",
        "held_out.jsonl, 1 prompt of up to 8 tokens",
        "2 demonstrations, 6 trained tokens",
        "transformers on cpu",
        "in 4 of 4 completions",
        "ratio_max 1: they agree",
        "4 answers to its first prompt, mean reward",
        "memory of cpu",
        "A run would start",
    ):
        assert words in ended.output, ended.output


def test_a_reward_that_raises_is_shown_with_what_it_was_given(run):
    (run / "rewards.py").write_text("def variety(completions):\n    raise KeyError('lost')\n")
    ended = check(run, "--json")
    assert ended.exit_code == ExitCode.CONFIG, ended.output
    report = json.loads(ended.output)
    found = next(one["found"] for one in report["findings"] if one["subject"] == "reward")
    assert found.startswith("reward rewards:variety raised\nTraceback")
    assert found.endswith("line 2, in variety\n    raise KeyError('lost')\nKeyError: 'lost'")
    assert report["level"] == "bad"
    assert [one["reward"] for one in report["trajectories"]] == [None] * 4
    assert all(one["completion"] for one in report["trajectories"])
    assert report["prompt_tokens"][0] == {"id": 21, "text": "s", "is_trained": False}


def test_all_that_is_wrong_is_said_at_once_in_the_words_of_the_run(run):
    (run / "train.jsonl").write_text(json.dumps({"prompt": "a" * 70}))
    (run / "held_out.jsonl").unlink()
    ended = check(
        run,
        '--set reward.functions=["rewards:varieti"] '
        "--set server.host=0.0.0.0 "
        "--set run.folder=train.jsonl/runs",
        {"VOLLEY_TOKEN": "", "VOLLEY_REDIS_URL": "redis://127.0.0.1:1"},
    )
    assert ended.exit_code == ExitCode.CONFIG, ended.output
    said = lines(ended, "bad")
    for line, words in zip(
        said,
        (
            "rewards.py has no 'varieti': it has variety",
            "held_out.jsonl: No such file",
            "train.jsonl:1: the prompt has 70 tokens",
            "server.host = 0.0.0.0 is reachable from elsewhere: set VOLLEY_TOKEN",
            "Redis at redis://127.0.0.1:1 cannot be reached",
            "train.jsonl cannot be written to",
        ),
        strict=True,
    ):
        assert words in line
    assert "6 to be put right before a run." in ended.output


def test_a_template_that_does_not_suit_tools_is_found_before_the_cold_start(tmp_path):
    save_chat_model(tmp_path / "model", REWRITING)
    (tmp_path / "config.toml").write_text(TOOLS_CONFIG)
    (tmp_path / "tools.py").write_text(ADD)
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": CHAT}))
    answered = [*CHAT, {"role": "assistant", "content": "2"}]
    (tmp_path / "shown.jsonl").write_text(json.dumps({"messages": answered}))
    ended = check(tmp_path)
    assert ended.exit_code == ExitCode.CONFIG, ended.output
    [only] = lines(ended, "bad")
    assert "environment.name: tools needs another template" in only
    assert "rewrites" in only
    # What the tools look like to the model is there to be seen.
    assert "Add two numbers" in ended.output


def test_a_check_that_is_told_to_end_takes_its_copy_of_the_model_away(run):
    temporary = run / "tmp"
    temporary.mkdir()
    own = {"VOLLEY_TOKEN": TOKEN, "TMPDIR": str(temporary)}
    with under_way("check config.toml --set devices.engine=transformers", run, own) as command:
        copy = "volley-check-*/model/*.safetensors"
        wait_until(lambda: list(temporary.glob(copy)), END_S)
        command.process.terminate()
        command.end()
    assert list(temporary.glob("volley-check-*")) == []


def test_a_misspelt_key_is_said_as_everywhere(run):
    ended = check(run, "--set optim.learning_rat=1")
    assert ended.exit_code == ExitCode.CONFIG
    assert ended.output.startswith(ERROR_PREFIX)
    assert "learning_rate" in ended.output
