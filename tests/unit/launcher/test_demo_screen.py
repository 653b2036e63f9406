"""The last screen of a demo."""

import io
import json

import pytest
from rich.console import Console

from volley.launcher.demo import DEMOS, complete_summary
from volley.launcher.demo_screen import Evaluation, Sample, answer_of, answers_table, figures_table

SEARCHED = Sample(
    prompt="q: food of trm?",
    turns=("<search>food trm</search>", "<answer>wia</answer>"),
    insertions=("<information>food trm: wia</information>",),
    reward=1.0,
)
GUESSED = Sample("q: food of trm?", ("<answer>dki</answer>",), (), 0.0)


def evaluation(sampled: float, greedy: float, searched: float, *samples: Sample) -> Evaluation:
    return Evaluation(
        sampled=sampled,
        sampled_stderr=0.01,
        greedy=greedy,
        prompts=300,
        metrics={"searched": searched},
        samples=samples,
    )


BEFORE = evaluation(0.17, 0.0, 0.29, GUESSED, GUESSED, GUESSED)
AFTER = evaluation(0.89, 0.99, 0.98, SEARCHED, SEARCHED, SEARCHED)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_generated_and_inserted_text_have_colours_of_their_own():
    answer = answer_of(SEARCHED)
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
    assert answer_of(Sample("q", ("a",), (), None)).plain == "a\nno reward"


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
        "q: food of trm? before <answer>dki</answer>",
        "reward 0",
        "after <search>food trm</search>",
        "<information>food trm: wia</information>",
        "<answer>wia</answer>",
        "reward 1",
    ]
    shown = [line for line in lines if any(character.isalpha() for character in line)]
    assert shown == ["prompt GRPO answer", *answer, *answer]


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
