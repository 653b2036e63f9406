"""`volley evaluate`: held-out prompts asked as a run asks them, without one."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.chats import ADD, CHATML, save_chat_model
from tests.command_line import Ended, volley
from tests.processes import CONFIG, write_run
from volley.telemetry.stops import ERROR_PREFIX, ExitCode

pytestmark = pytest.mark.e2e

PROMPTS = ("sort ba=", "sort dc=", "sort fe=")
TOOLS = f"""{ADD}
def said(completions, **columns):
    return [float(len(text)) for text in completions]
"""
CHAT_CONFIG = """
[model]
path = "model"
dtype = "float32"
[data]
train = "train.jsonl"
[evaluation]
data = "held_out.jsonl"
[sampling]
num_generations = 2
max_completion_length = 8
[reward]
functions = ["tools:said"]
"""
WITH_TOOLS = """
[environment]
name = "tools"
[environment.options]
functions = ["tools:add"]
"""
WITHOUT_THINKING = """
[model.chat_template_kwargs]
enable_thinking = false
"""


def evaluate(folder: Path, options: str) -> Ended:
    """What `volley evaluate` says, which leaves nothing behind."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    command = f"evaluate config.toml {options} --set devices.engine=transformers"
    ended = volley(command, folder, {"TMPDIR": str(temporary)})
    assert list(temporary.iterdir()) == []
    return ended


def reported(ended: Ended) -> dict[str, Any]:
    """The one object, which is the last line."""
    assert ended.exit_code == ExitCode.DONE, ended.output
    report: dict[str, Any] = json.loads(ended.output.splitlines()[-1])
    return report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path, CONFIG)
    rows = [{"prompt": prompt, "answer": "ab"} for prompt in PROMPTS]
    (tmp_path / "held_out.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def greedy_variety(folder: Path) -> list[int]:
    """Of each prompt, as transformers itself continues it."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        said = model.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :]
        found.append(len(set(tokenizer.decode(said, skip_special_tokens=True))))
    return found


def test_means_over_held_out_prompts_are_those_of_the_rewards(run):
    first = evaluate(run, "held_out.jsonl --model model --num-generations 3 --json")
    report = reported(first)
    metrics, samples = report["metrics"], report["samples"]
    assert report["num_generations"] == 3
    assert metrics["num_prompts"] == metrics["num_answered"] == len(PROMPTS)
    assert {sample["prompt"] for sample in samples} == set(PROMPTS)
    for sample in samples:
        assert sample["reward"] == len(set("".join(part["text"] for part in sample["parts"])))
    assert metrics["reward_greedy"] == pytest.approx(fmean(greedy_variety(run)))
    # The same seed, the same answers.
    again = evaluate(run, "held_out.jsonl --model model --num-generations 3 --json")
    assert reported(again) == report


def test_a_person_sees_a_table_and_some_answers(run):
    ended = evaluate(run, "held_out.jsonl")
    assert ended.exit_code == ExitCode.DONE, ended.output
    assert "reward, sampling at temperature 1 (4 x 3)" in ended.output
    assert "reward, greedy (3)" in ended.output
    assert all(prompt in ended.output for prompt in PROMPTS)


@pytest.mark.parametrize(
    ("more", "seen"), [(WITH_TOOLS, "Add two numbers"), (WITHOUT_THINKING, "</think>")]
)
def test_the_model_sees_what_it_sees_in_a_run(tmp_path, more, seen):
    save_chat_model(tmp_path / "model", CHATML)
    (tmp_path / "config.toml").write_text(CHAT_CONFIG + more)
    (tmp_path / "tools.py").write_text(TOOLS)
    row = json.dumps({"prompt": [{"role": "user", "content": "1+1?"}]})
    for name in ("train.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text(row)
    report = reported(evaluate(tmp_path, "--json"))
    [sample] = report["samples"]
    assert seen in sample["prompt"]
    assert report["metrics"]["num_answered"] == 1


def test_what_cannot_be_used_is_named(run):
    nothing = evaluate(run, "")
    assert nothing.exit_code == ExitCode.CONFIG
    assert nothing.output.startswith(ERROR_PREFIX)
    assert "evaluation.data" in nothing.output
    (run / "rewards.py").write_text("def variety(completions, **columns):\n    raise KeyError('x')")
    raising = evaluate(run, "held_out.jsonl")
    assert raising.exit_code == ExitCode.CONFIG
    assert "rewards:variety" in raising.output
    assert "KeyError" in raising.output
