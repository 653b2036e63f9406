"""What a look at the status says about a run."""

from dataclasses import replace

import pytest

from tests.reports import REPORT, WORKER
from volley.learner.health import HealthRules, judged
from volley.schemas.groups import Version
from volley.schemas.status import HealthLevel, LearnerState, StatusReport

RULES = HealthRules(max_staleness=1, lease_s=60.0)


def codes(report: StatusReport) -> list[str]:
    return [problem.code for problem in judged(report, RULES).health.problems]


def test_a_run_that_trains_is_well():
    health = judged(REPORT, RULES).health
    assert health.level is HealthLevel.OK
    assert health.sentence == "Training, step 37 of 300."
    assert health.problems == ()


@pytest.mark.parametrize(
    ("change", "code", "level", "words"),
    [
        ({"redis": "degraded: no answer", "queue": None, "workers": ()}, "redis", "critical",
         "Redis is degraded: no answer"),
        ({"disk": "degraded: full"}, "disk", "critical", "The disk is degraded: full"),
        ({"workers": ()}, "no_workers", "critical", "No worker is there"),
        ({"workers": (replace(WORKER, version=Version(1, 5)),)}, "workers_behind", "warning",
         "Worker 01234567 is too many versions behind"),
        ({"workers": (replace(WORKER, last_progress_s=61.0),)}, "workers_stalled", "warning",
         "Worker 01234567 is not moving for more than lease_s = 60"),
        ({"metrics": {"failed_share": 0.25}}, "rewards_failing", "warning",
         "25% of the last step's completions failed"),
        ({"metrics": {"no_signal_share": 1.0}}, "no_signal", "warning",
         "100% of the last step's groups have nothing to teach"),
        ({"alarms": ("step 30: alarm kl, for 3 steps: kl 0.3 is above the limit",)}, "alarm",
         "warning", "Alarm kl, for 3 steps up to step 30"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(change, code, level, words):
    health = judged(replace(REPORT, **change), RULES).health
    assert [problem.code for problem in health.problems] == [code]
    assert health.level == level
    assert health.problems[0].message == words
    assert health.problems[0].fix
    assert health.sentence == f"{words}. Training, step 37 of 300."


def test_the_worst_problem_gives_the_level_and_the_first_the_sentence():
    report = replace(REPORT, disk="degraded: full", metrics={"failed_share": 1.0})
    health = judged(report, RULES).health
    assert health.level is HealthLevel.CRITICAL
    assert health.sentence.startswith("The disk is degraded: full, and 1 more. ")


@pytest.mark.parametrize(
    ("step", "seconds_per_step", "found"),
    [(7, 1.0, []), (5, 1.0, ["workers_behind"]), (5, 0.5, [])],
)
def test_a_worker_is_behind_when_it_is_so_for_half_a_minute(step, seconds_per_step, found):
    workers = (replace(WORKER, version=Version(1, step)),)
    metrics: dict[str, float | None] = {"waiting_s": 0.25, "training_s": seconds_per_step - 0.25}
    assert codes(replace(REPORT, workers=workers, metrics=metrics)) == found


def test_workers_have_time_to_start():
    beginning = replace(REPORT, version=Version(1, 0), state=LearnerState.WAITING, workers=())
    assert codes(replace(beginning, uptime_s=5.0)) == []
    assert codes(replace(beginning, uptime_s=91.0)) == ["no_workers"]
    waiting = judged(replace(beginning, uptime_s=5.0), RULES).health
    assert waiting.sentence == "Waiting for the first worker."


def test_before_and_after_the_work_nobody_misses_workers():
    for state in (LearnerState.COLD_START, LearnerState.REPLAYING, LearnerState.FINISHED):
        assert codes(replace(REPORT, state=state, workers=())) == []


def test_a_pause_is_no_fault_but_is_said():
    health = judged(replace(REPORT, state=LearnerState.PAUSED), RULES).health
    assert health.level is HealthLevel.OK
    assert health.sentence == "Paused at step 37 of 300, until somebody resumes it."
