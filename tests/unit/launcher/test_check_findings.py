import msgspec
import pytest

from tests.builders import make_group, make_trajectory
from volley.launcher.check_findings import (
    agreement_finding,
    length_finding,
    reward_findings,
    trained_finding,
)
from volley.launcher.findings import Level
from volley.learner.settings import Settings
from volley.learner.step_metrics import Metrics
from volley.learner.trajectory_record import Step, TrajectoryRecord, records_of
from volley.schemas.groups import StopReason

SETTINGS = Settings.model_validate({"model": {"path": "m"}, "data": {"train": "t"}})
STEP = Step("run", 1, 1, 0, ("f",), (1.0,), "answer", lambda token_ids: "x" * len(token_ids))


def records(*stop_reasons: StopReason, num_tokens: int = 4) -> list[TrajectoryRecord]:
    trajectories = [
        make_trajectory(stop_reason=reason, token_ids=[4] * num_tokens) for reason in stop_reasons
    ]
    group = make_group(trajectories=trajectories)
    return [*records_of(group, STEP, None, [0.0] * len(trajectories))]


def test_different_rewards_are_a_signal():
    [only] = reward_findings([0.0, 0.25, 1.0], [])
    assert only.level is Level.OK
    assert only.found.startswith("3 from 0 to 1")


def test_equal_rewards_are_warned_of_with_what_to_do():
    [only] = reward_findings([0.5, 0.5], [])
    assert only.level is Level.WARN
    assert only.found.startswith("all 2 are 0.5")
    assert only.advice is not None
    assert "run.seed=N" in only.advice


def test_what_has_no_reward_is_counted_with_the_first_reason():
    missing, signal = reward_findings([None, 0.0, 1.0], ["reward f raised\nKeyError", "other"])
    assert missing.level is Level.WARN
    assert missing.found == (
        "1 of 3 completions have none, and are not trained: reward f raised\nKeyError"
    )
    assert signal.level is Level.OK


def test_rewards_that_are_all_none_are_said_once():
    [only] = reward_findings([None, None], [])
    assert only.found.startswith("2 of 2 completions have none")
    assert only.found.endswith("the reward is None")


def test_only_completions_that_are_all_cut_off_are_warned_of():
    some = length_finding(records(StopReason.STOP, StopReason.LENGTH), 4)
    every = length_finding(records(StopReason.TURNS, StopReason.LENGTH), 4)
    assert (some.level, every.level) == (Level.OK, Level.WARN)
    assert some.found == "up to 4 tokens of at most 4, 1 of 2 cut off"


@pytest.mark.parametrize(
    ("num_tokens", "num_sequences", "no_signal_share", "level", "found"),
    [
        (6, 2, 0.0, Level.OK, "6 of 8 tokens behind the prompt (75%), in 2 of 2 completions"),
        (0, 0, 1.0, Level.OK, "0 of 8 tokens behind the prompt (0%), in 0 of 2 completions"),
        (0, 0, 0.0, Level.WARN, "0 of 8 tokens behind the prompt (0%), in 0 of 2 completions"),
    ],
    ids=["a part", "no signal, which is said already", "a signal that is masked"],
)
def test_it_is_said_how_much_is_trained(num_tokens, num_sequences, no_signal_share, level, found):
    metrics = {
        "num_tokens": num_tokens,
        "num_sequences": num_sequences,
        "no_signal_share": no_signal_share,
    }
    finding = trained_finding(records(StopReason.LENGTH, StopReason.LENGTH), metrics)
    assert (finding.level, finding.found) == (level, found)


def test_an_engine_that_disagrees_is_told_of_in_the_words_of_the_alarm():
    metrics: Metrics = {"kl": 0.5, "ratio_max": 3.0, "mismatch_kl": 0.5, "no_signal_share": 1.0}
    finding = agreement_finding(SETTINGS, metrics)
    assert finding.level is Level.WARN
    assert finding.found.startswith("kl 0.5, ratio_max 3; alarm mismatch")
    assert "model.dtype" in finding.found
    close = agreement_finding(SETTINGS, metrics | {"kl": 1e-4, "mismatch_kl": 1e-4})
    assert close.level is Level.OK


def test_records_can_be_sent():
    assert b'"stop_reason":"length"' in msgspec.json.encode(records(StopReason.LENGTH))
