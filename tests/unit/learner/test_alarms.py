import csv
from collections.abc import Iterable
from pathlib import Path

import pytest

from volley.learner.alarm_settings import AlarmsSettings
from volley.learner.alarms import REWARD_STEPS, Alarms

DEMO = Path(__file__).parents[2] / "golden" / "sort-metrics.csv"
"""The five metrics of a finished sort demo, a line a step."""


def raised(settings: AlarmsSettings, metric: str, values: Iterable[float | None]) -> list[int]:
    """The steps, from 1, at which an alarm is raised."""
    alarms = Alarms(settings)
    return [step for step, value in enumerate(values, 1) if alarms.look({metric: value})]


def test_the_demo_raises_no_alarm_even_without_patience():
    alarms = Alarms(AlarmsSettings(patience=1))
    with DEMO.open(newline="") as lines:
        rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(lines)]
    assert len(rows) == 400
    assert [alarm for row in rows for alarm in alarms.look(row)] == []


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [
        ("kl", 0.2, 0.21),
        ("mismatch_kl", 0.05, 0.06),
        ("effective_sample_share", 0.1, 0.09),
        ("corrected_share", 0.5, 0.51),
        ("entropy", 1.0, 0.019),
        ("ratio_max", 100.0, 101.0),
        ("no_signal_share", 0.97, 1.0),
    ],
)
def test_an_alarm_is_raised_when_the_patience_is_over_and_again_after_as_long(metric, good, bad):
    assert raised(AlarmsSettings(patience=3), metric, [good, *[bad] * 7]) == [4, 7]


def test_one_good_step_begins_the_count_again():
    assert raised(AlarmsSettings(patience=3), "kl", [1, 1, 0, 1, 1, 1]) == [6]


def test_a_step_without_the_metric_is_not_counted():
    assert raised(AlarmsSettings(patience=3), "kl", [1, None, 1, None, 1]) == [5]


def test_entropy_is_compared_with_that_of_the_first_step_that_has_one():
    settings = AlarmsSettings(patience=1, min_entropy_share=0.5)
    assert raised(settings, "entropy", [None, 2.0, 1.0, 0.9]) == [4]


def test_a_reward_that_falls_to_half_of_its_best_raises_an_alarm():
    # After k bad steps the mean has lost 0.8 k / 20: more than half of its 0.8 from k = 11 on. The
    # steps differ by 0.8 sqrt(k / 20 (1 - k / 20)): 2.5 times that is 0.714 for k = 17, where 0.68
    # is lost, and 0.6 for k = 18, where 0.72 is.
    rewards = [0.8] * 20 + [0.0] * 20
    assert raised(AlarmsSettings(patience=1), "reward_mean", rewards) == [38, 39, 40]


def test_a_reward_that_falls_by_less_than_its_share_does_not():
    rewards = [0.8] * 20 + [0.5] * 40
    assert raised(AlarmsSettings(patience=1), "reward_mean", rewards) == []


def test_a_reward_that_sways_around_zero_is_not_a_collapse():
    rewards = [0.3 * (-1) ** (step // 7) for step in range(100)]
    assert raised(AlarmsSettings(patience=1), "reward_mean", rewards) == []


def test_a_negative_reward_that_becomes_worse_by_more_than_its_share_raises_an_alarm():
    rewards = [-1.0] * REWARD_STEPS + [-2.0] * REWARD_STEPS
    assert raised(AlarmsSettings(patience=1), "reward_mean", rewards) == [38, 39, 40]


OFF = AlarmsSettings(
    patience=1,
    max_kl=0,
    max_mismatch_kl=0,
    min_effective_sample_share=0,
    max_corrected_share=0,
    min_entropy_share=0,
    max_ratio=0,
    max_no_signal_share=0,
    max_reward_drop=0,
)


@pytest.mark.parametrize(
    "metric", ["kl", "mismatch_kl", "corrected_share", "ratio_max", "no_signal_share"]
)
def test_a_limit_of_zero_turns_its_alarm_off(metric):
    assert raised(OFF, metric, [1e9] * 5) == []


@pytest.mark.parametrize("metric", ["entropy", "reward_mean", "effective_sample_share"])
def test_a_share_of_zero_turns_its_alarm_off(metric):
    assert raised(OFF, metric, [1.0] * 20 + [0.0] * 20) == []


def test_an_alarm_says_the_metric_its_value_the_limit_and_what_to_do():
    (alarm,) = Alarms(AlarmsSettings(patience=1)).look({"kl": 0.3, "ratio_max": 2.0})
    assert alarm.message.startswith(
        "alarm kl, for 1 steps: kl 0.3 is above alarms.max_kl = 0.2: learner and sampler disagree "
    )
    assert "Lower optim.learning_rate or queue.max_staleness" in alarm.message


def test_only_chosen_alarms_stop_the_run():
    alarms = Alarms(AlarmsSettings(patience=1, stop_on=("ratio",)))
    found = alarms.look({"kl": 0.3, "ratio_max": 1e4})
    assert {alarm.name: alarm.stops for alarm in found} == {"kl": False, "ratio": True}


def test_alarms_that_looked_at_the_rows_of_a_run_go_on_where_it_stood():
    settings = AlarmsSettings(patience=4)
    again = Alarms(settings)
    for row in [{"kl": 0.0}, {"kl": 1.0}, {"kl": 1.0}, {"kl": 1.0}]:
        assert again.look(row) == []
    assert [alarm.name for alarm in again.look({"kl": 1.0})] == ["kl"]
