"""A model folder evaluated as the demo does it."""

import json
import string
import sys
from pathlib import Path

import pytest
import torch

from volley.rollout.evaluation import Evaluation, EvaluationSettings, evaluate_folder
from volley.rollout.tokenizer import Tokenizer
from volley.telemetry.stops import Stop


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.jsonl"
    rows = [{"prompt": f"sort {word}=", "answer": word} for word in ("ba", "dc", "abc")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def evaluate(model_folder, tmp_path):
    def evaluate(
        data: Path,
        reward: str = "exact_match",
        max_completion_length: int = 8,
        samples_per_prompt: int = 1,
        environment: str | None = None,
    ) -> Evaluation:
        return evaluate_folder(
            EvaluationSettings(
                model_folder=model_folder,
                data=data,
                reward=reward,
                environment=environment,
                environment_options={},
                max_turns=8,
                code_folder=tmp_path,
                max_completion_length=max_completion_length,
                samples_per_prompt=samples_per_prompt,
                seed=0,
                device="cpu",
                num_threads=1,
                max_num_seqs=8,
            )
        )

    return evaluate


def greedy_ids(model: torch.nn.Module, prompt_ids: tuple[int, ...], num_tokens: int) -> list[int]:
    ids = list(prompt_ids)
    for _ in range(num_tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt_ids) :]


@pytest.fixture
def vowels(tmp_path, monkeypatch):
    """A reward of the user's; loading it extends sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(
        "def vowels(completions): return [sum(map(text.count, 'aeiou')) for text in completions]\n"
    )
    return "mine:vowels"


def test_samples_are_scored_and_repeat_with_the_seed(evaluate, data, vowels):
    first = evaluate(data, vowels, samples_per_prompt=4)
    assert first.prompts == 3
    assert [sample.prompt for sample in first.samples] == ["sort ba=", "sort dc=", "sort abc="]
    for sample in first.samples:
        assert sample.reward == sum(map(sample.completion.count, "aeiou"))
    assert evaluate(data, vowels, samples_per_prompt=4) == first


NODDING = f"""
class Nodding:
    stop_strings = {tuple(string.ascii_lowercase)}
    def __init__(self, prompt, columns):
        self.metrics = {{"answers": 0, "wanted": len(columns["answer"])}}
    def respond(self, transcript):
        if self.metrics["answers"] == 2:
            return None
        self.metrics["answers"] += 1
        return "="
"""


def test_what_an_environment_inserts_and_counts_is_told(evaluate, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nodding.py").write_text(NODDING)
    result = evaluate(data, samples_per_prompt=4, environment="nodding:Nodding")
    assert result.metrics["wanted"] == pytest.approx(7 / 3)
    assert 0 < result.metrics["answers"] <= 2
    for sample in result.samples:
        said = "=".join(sample.turns)
        # This tokenizer puts a space between any two tokens.
        assert sample.completion.replace(" ", "") == said.replace(" ", "")
        assert sample.insertions == ("=",) * (len(sample.turns) - 1)


def test_the_standard_error_is_that_of_the_mean_over_prompts(evaluate, data, vowels):
    result = evaluate(data, vowels)
    rewards = [sample.reward for sample in result.samples]
    assert len(set(rewards)) > 1
    mean = sum(rewards) / 3
    variance = sum((reward - mean) ** 2 for reward in rewards) / 2
    assert result.sampled == pytest.approx(mean)
    assert result.sampled_stderr == pytest.approx((variance / 3) ** 0.5)


def test_greedy_is_the_share_of_greedy_completions_that_match(
    evaluate, model_folder, model, tmp_path
):
    tokenizer = Tokenizer(model_folder)
    right = tokenizer.text_of(greedy_ids(model, tokenizer.prompt_ids("sort ba="), 3))
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": "sort ba=", "answer": answer} for answer in (right, right, "zzz", "xx")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(data, max_completion_length=3).greedy == 0.5


@pytest.mark.parametrize("content", ["", '{"question": "?"}\n', "prompt\n", "[1]\n"])
def test_a_data_file_without_prompts_is_refused(evaluate, tmp_path, content):
    data = tmp_path / "data.jsonl"
    data.write_text(content)
    with pytest.raises(Stop, match=r"data\.jsonl"):
        evaluate(data)


def test_a_missing_column_of_the_reward_is_named(evaluate, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "sort ba="}\n')
    with pytest.raises(Stop, match="'answer'"):
        evaluate(data)
