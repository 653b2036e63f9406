"""What the rewards that every worker brings give, worked out by hand."""

from pathlib import Path

import pytest

from tests.loaded_rewards import load_rewards
from volley.rollout.builtin_rewards import (
    answer_match,
    exact_match,
    f1,
    well_formed,
    words_of,
)
from volley.rollout.maths import maths
from volley.rollout.reward_pool import RewardPool
from volley.schemas.run_spec import BUILTIN_REWARDS, RewardLimits, RewardSpec
from volley.telemetry.stops import ExitCode, Stop

SEARCHED = "<search>x</search><information>y</information>"
ANSWERED = "<answer>z</answer>"


def test_exact_match_is_one_where_the_completion_is_the_answer_but_for_spaces():
    assert exact_match([" ab\n", "ba", ""], ["ab", "ab", "ab"]) == [1.0, 0.0, 0.0]
    assert exact_match(["42"], [42]) == [1.0]


def test_words_are_compared_without_case_punctuation_and_articles():
    assert words_of("The U.S.'s  an(d) A-B\n42") == ["uss", "and", "ab", "42"]
    assert words_of("Theatre, an anthem!") == ["theatre", "anthem"]
    assert words_of("\N{LATIN CAPITAL LETTER E WITH ACUTE}t\xe9") == ["\xe9t\xe9"]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<answer>The Eiffel-Tower.</answer>", 1),
        ("<answer>no</answer> or <answer> a eiffeltower </answer>", 1),
        ("<answer>eiffeltower</answer> or <answer>no</answer>", 0),
        ("<answer>no <answer>eiffeltower</answer>", 1),
        ("<answer>eiffeltower</answer> and </answer>", 1),
        ("<answer>\neiffeltower\n</answer>", 1),
        ("<answer>eiffeltower two</answer>", 0),
        ("<answer></answer>", 0),
        ("eiffeltower", 0),
        ("<answer>eiffeltower", 0),
        ("<information>eiffeltower</information>", 0),
        ("", 0),
    ],
)
def test_answer_match_is_one_where_the_last_answer_has_the_wanted_words(completion, reward):
    assert answer_match([completion], ["Eiffel-Tower"]) == [reward]


def test_any_of_several_answers_counts():
    answers = [["NYC", "New York"]] * 3
    completions = [f"<answer>{text}</answer>" for text in ("new york", "nyc", "York")]
    assert answer_match(completions, answers) == [1, 1, 0]
    # `York` against `New York`: precision 1, recall 1/2.
    assert f1(completions, answers) == pytest.approx([1, 1, 2 / 3])


def test_numbers_are_answers_too():
    assert answer_match(["<answer>42</answer>"], [42]) == [1]


@pytest.mark.parametrize(
    ("found", "wanted", "reward"),
    [
        ("red green blue", "red green blue", 1),
        ("blue, green, red", "red green blue", 1),
        # 2 of 4 words found are wanted, 2 of 3 that are wanted were found.
        ("red green x y", "red green blue", 2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3)),
        # A word counts as often as it is in both.
        ("red red red", "red red blue", 2 / 3),
        ("x", "red", 0),
        ("", "red", 0),
        ("the", "a", 1),
        ("red", "the", 0),
    ],
)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(found, wanted, reward):
    assert f1([f"x <answer>{found}</answer>"], [wanted]) == [pytest.approx(reward)]


def test_f1_of_a_completion_without_an_answer_is_zero():
    assert f1(["red", SEARCHED.replace("y", "red")], ["red", "red"]) == [0, 0]


@pytest.mark.parametrize("function", [answer_match, f1, maths])
def test_a_row_without_the_column_has_no_reward(function):
    assert function(["<answer>x</answer>", "y"]) == [None, None]
    assert function(["<answer>x</answer>", "y"], [None, None]) == [None, None]


def test_a_row_whose_list_of_answers_is_empty_has_no_reward():
    assert f1(["<answer>x</answer>"], [[]]) == [None]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        (ANSWERED, 1),
        (SEARCHED + ANSWERED, 1),
        (SEARCHED + "so" + SEARCHED + "thus" + ANSWERED + "\n", 1),
        ("", 0),
        ("z", 0),
        (SEARCHED, 0),
        (ANSWERED + "more", 0),
        (ANSWERED + ANSWERED, 0),
        (ANSWERED + SEARCHED, 0),
        (SEARCHED + "<answer>z", 0),
        ("<search>x</search>" + ANSWERED, 0),
        ("<search><search>x</search><information>y</information>" + ANSWERED, 0),
        ("</answer>z<answer>", 0),
        ("<information>y</information>" + ANSWERED, 0),
    ],
)
def test_format_is_one_where_the_tags_are_in_order(completion, reward):
    assert well_formed([completion]) == [reward]


@pytest.mark.parametrize(
    ("solution", "completion", "reward"),
    [
        ("42", "so it is 42.", 1),
        (42, r"thus \boxed{42}", 1),
        ("42", "41", 0),
        ("42", "", 0),
        ("42", "no idea", 0),
        (r"\frac{1}{2}", "0.5", 1),
        ("0.5", r"$\frac{2}{4}$", 1),
        (r"\sqrt{8}", r"$2\sqrt{2}$", 1),
        (r"so $x = \boxed{7}$", "7", 1),
        ("1,000", "1000", 1),
        (r"$x^2 + 1$", r"$1 + x^2$", 1),
        (r"$x^2 + 1$", r"$1 + x^3$", 0),
        ("", "7", None),
    ],
)
def test_maths_is_one_where_the_last_expression_equals_the_solution(solution, completion, reward):
    assert maths([completion], [solution]) == [reward]


def test_every_name_that_a_run_may_give_is_there():
    specs = [RewardSpec(name, 1.0, None) for name in BUILTIN_REWARDS]
    columns = {"answer": "z", "solution": "7"}
    rewards = [r.score("p", [ANSWERED], columns) for r in load_rewards(specs, Path())]
    assert rewards == [(0,), (1,), (1,), (1,), (0,)]


@pytest.fixture
def pool(tmp_path):
    specs = [RewardSpec("maths", 1.0, None), RewardSpec("f1", 1.0, None)]
    pool = RewardPool(specs, tmp_path, RewardLimits(20.0, 2**30, 1, None))
    yield pool
    pool.close()


def test_hostile_mathematics_harm_only_themselves(pool):
    maths_reward, f1_reward = pool.rewards
    assert maths_reward.name == "maths"
    completions = ["42", "$9^{9^{9^{9}}}$", "(" * 2_000, r"\boxed{42}"]
    assert maths_reward.score("p", completions, {"solution": "42"}) == (1, 0, 0, 1)
    assert maths_reward.score("p", ["42"], {}) == (None,)
    assert f1_reward.function is f1


def test_mathematics_without_the_library_stop_the_worker(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('planted')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(Stop, match=r"pip install 'volley-rl\[maths\]'") as stop:
        RewardPool([RewardSpec("maths", 1.0, None)], tmp_path, RewardLimits(20.0, 2**30, 1, None))
    assert stop.value.code is ExitCode.CONFIG
