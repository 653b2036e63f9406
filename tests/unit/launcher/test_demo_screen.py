"""The last screen of a demo."""

import io
import json

import pytest
from rich.console import Console

from volley.launcher.demo import DEMOS, complete_summary
from volley.launcher.demo_screen import answers_table, figures_table
from volley.launcher.evaluation_screen import Evaluation, Part, Sample, answer_of
from volley.schemas.past import Source

PROMPTS = ("q: food of trm?", "q: capital of shy?", "q: river of kor?")
SEARCHED = (
    Part(Source.GENERATED, "<search>food trm</search>"),
    Part(Source.INSERTED, "<information>food trm: wia</information>"),
    Part(Source.GENERATED, "<answer>wia</answer>"),
)
GUESSED = (Part(Source.GENERATED, "<answer>dki</answer>"),)


def evaluation(
    sampled: float, greedy: float, searched: float, parts: tuple[Part, ...], reward: float
) -> Evaluation:
    return Evaluation(
        model="model",
        data="held_out.jsonl",
        temperature=1.0,
        num_generations=2,
        metrics={
            "num_prompts": 300,
            "reward": sampled,
            "reward_stderr": 0.01,
            "reward_greedy": greedy,
            "environment/searched": searched,
        },
        samples=tuple(Sample(prompt, parts, reward) for prompt in PROMPTS),
    )


BEFORE = evaluation(0.17, 0.0, 0.29, GUESSED, 0.0)
AFTER = evaluation(0.89, 0.99, 0.98, SEARCHED, 1.0)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_generated_and_inserted_text_have_colours_of_their_own():
    answer = answer_of(Sample(PROMPTS[0], SEARCHED, 1.0))
    assert answer.plain.splitlines() == [
        "<search>food trm</search>",
        "<information>food trm: wia</information>",
        "<answer>wia</answer>",
        "reward 1",
    ]
    styles = {answer.plain[span.start : span.end]: span.style for span in answer.spans}
    assert styles["<search>food trm</search>"] == styles["<answer>wia</answer>"] != ""
    assert styles["<information>food trm: wia</information>"] not in (
        "",
        styles["<answer>wia</answer>"],
    )


def test_an_answer_that_could_not_be_scored_says_so():
    answer = answer_of(Sample("q", (Part(Source.GENERATED, "a"),), None))
    assert answer.plain == "a\nno reward"


def test_figures_before_and_after_stand_side_by_side(console):
    console.print(figures_table(DEMOS["search"], BEFORE, AFTER))
    screen = console.file.getvalue()
    for row in (
        "sampling at temperature 1 (2 x 300)    0.170 +- 0.010   0.890 +- 0.010",
        "greedy (300)                           0.000            0.990",
        "search rate at temperature 1           0.290            0.980",
    ):
        assert row in screen


def test_two_prompts_are_shown_with_both_answers_in_80_columns(console):
    console.print(answers_table(BEFORE, AFTER))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    answer = [
        "before <answer>dki</answer>",
        "reward 0",
        "after <search>food trm</search>",
        "<information>food trm: wia</information>",
        "<answer>wia</answer>",
        "reward 1",
    ]
    shown = [line for line in lines if any(character.isalpha() for character in line)]
    assert shown == [
        "prompt GRPO answer",
        *(f"{PROMPTS[0]} {answer[0]}", *answer[1:]),
        *(f"{PROMPTS[1]} {answer[0]}", *answer[1:]),
    ]


def test_the_summary_gets_what_only_the_evaluations_know(tmp_path):
    (tmp_path / "summary.json").write_text('{"steps": 80}')
    complete_summary(tmp_path, DEMOS["search"], BEFORE, AFTER, wall_s=200.0)
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "steps": 80,
        "held_out_before": 0.17,
        "greedy_before": 0.0,
        "search_rate_before": 0.29,
        "held_out_after": 0.89,
        "greedy_after": 0.99,
        "search_rate_after": 0.98,
        "wall_s": 200.0,
    }
