"""Is the run well, and if not why and what is to be done? From the status alone.

redis             nothing can be issued or collected               critical
disk              nothing can be logged, so nothing is trained     critical
no_workers        nobody samples                                   critical
workers_behind    what they sample will be too stale to train on
workers_stalled   they hold prompts and nothing moves
rewards_failing   completions are left without a reward
no_signal         no group has two different rewards
alarm             a metric looks as if the run goes wrong
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from volley.schemas.status import (
    Health,
    HealthLevel,
    HealthProblem,
    LearnerState,
    StatusReport,
    WorkerReport,
)

WORKERS_START_S = 90.0
"""Workers import their engine and load the model before they are seen."""
BEHIND_S = 30.0
"""Workers report every two seconds, and one that evaluates keeps its weights meanwhile."""
MAX_FAILED_SHARE = 0.05
MAX_NO_SIGNAL_SHARE = 0.9
PARTS_OF_A_STEP = ("waiting", "training", "publishing")
CRITICAL = frozenset({"redis", "disk", "no_workers"})
BEFORE_WORK = frozenset({LearnerState.STARTING, LearnerState.COLD_START, LearnerState.REPLAYING})
AFTER_WORK = frozenset({LearnerState.FINISHED, LearnerState.STOPPED})


@dataclass(frozen=True, slots=True)
class HealthRules:
    """What is allowed in this run."""

    max_staleness: int
    lease_s: float


def judged(report: StatusReport, rules: HealthRules) -> StatusReport:
    """The report with its health."""
    problems = tuple(_problems(report, rules))
    if not problems:
        return replace(report, health=Health(HealthLevel.OK, _doing(report)))
    is_critical = any(problem.code in CRITICAL for problem in problems)
    level = HealthLevel.CRITICAL if is_critical else HealthLevel.WARNING
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    sentence = f"{problems[0].message}{more}. {_doing(report)}"
    return replace(report, health=Health(level, sentence, problems))


def _problems(report: StatusReport, rules: HealthRules) -> Iterator[HealthProblem]:
    if report.redis != "ok":
        yield HealthProblem(
            "redis",
            f"Redis is {report.redis}",
            "Start it again, or give it what it lacks: the run then goes on by itself.",
        )
    if report.disk != "ok":
        yield HealthProblem(
            "disk",
            f"The disk is {report.disk}",
            "Make room on the run folder's disk: the run then goes on by itself.",
        )
    if report.state in BEFORE_WORK | AFTER_WORK:
        return
    yield from _of_workers(report, rules)
    yield from _of_metrics(report)
    for raised in report.alarms:
        step, _, rest = raised.partition(": ")
        alarm, _, trouble = rest.partition(": ")
        yield HealthProblem("alarm", f"{alarm.capitalize()} up to {step}", trouble)


def _of_workers(report: StatusReport, rules: HealthRules) -> Iterator[HealthProblem]:
    if report.queue is None:
        # Redis is away, and with it what the workers say.
        return
    if not report.workers and (report.version.step or report.uptime_s > WORKERS_START_S):
        yield HealthProblem(
            "no_workers",
            "No worker is there",
            "Start one: volley rollout --learner URL, with VOLLEY_TOKEN. If one should be there, "
            "its log says why it is not.",
        )
    allowed = rules.max_staleness + BEHIND_S / _seconds_per_step(report)
    behind = [one for one in report.workers if (lag(report, one) or 0) > allowed]
    if behind:
        yield HealthProblem(
            "workers_behind",
            f"{_workers(behind)} too many versions behind",
            f"For {BEHIND_S:g} s what they sample has been too stale to train on: look at their "
            "log and network, or raise queue.max_staleness.",
        )
    stalled = [one for one in report.workers if one.leases and one.last_progress_s > rules.lease_s]
    if stalled:
        yield HealthProblem(
            "workers_stalled",
            f"{_workers(stalled)} not moving for more than lease_s = {rules.lease_s:g}",
            "Their prompts have gone to others. Look at their log; stop them if they hang.",
        )


def _of_metrics(report: StatusReport) -> Iterator[HealthProblem]:
    failed, no_signal = (
        report.metrics.get(name) or 0.0 for name in ("failed_share", "no_signal_share")
    )
    if failed > MAX_FAILED_SHARE:
        yield HealthProblem(
            "rewards_failing",
            f"{failed:.0%} of the last step's completions failed",
            "The workers' logs say why: the reward function, or the environment, raised or was "
            "too slow.",
        )
    if no_signal > MAX_NO_SIGNAL_SHARE:
        yield HealthProblem(
            "no_signal",
            f"{no_signal:.0%} of the last step's groups have nothing to teach",
            "All rewards of a group are equal: easier prompts if they are low, harder ones if "
            "they are high, or a finer reward.",
        )


def _seconds_per_step(report: StatusReport) -> float:
    """Of the last step; a second where that is not known."""
    spent = [report.metrics.get(f"{part}_s") or 0.0 for part in PARTS_OF_A_STEP]
    return sum(spent) or 1.0


def lag(report: StatusReport, worker: WorkerReport) -> int | None:
    """Versions that a worker is behind; None before it has any."""
    return None if worker.version is None else report.version.step - worker.version.step


def _workers(workers: list[WorkerReport]) -> str:
    if len(workers) == 1:
        return f"Worker {workers[0].worker[:8]} is"
    return f"{len(workers)} workers are"


def _doing(report: StatusReport) -> str:
    """What the run does at the moment, in a sentence."""
    step, steps = report.version.step, report.steps
    match report.state:
        case LearnerState.COLD_START:
            return f"The cold start goes on: {report.cold_start}."
        case LearnerState.STARTING:
            return "The run is about to begin."
        case LearnerState.REPLAYING:
            return f"Logged steps are taken again: {report.replay}."
        case LearnerState.PAUSED:
            return f"Paused at step {step} of {steps}, until somebody resumes it."
        case LearnerState.EVALUATING:
            return f"All {steps} steps are taken; the last evaluation is awaited."
        case LearnerState.FINISHED:
            return f"Finished: all {steps} steps are taken."
        case LearnerState.STOPPED:
            return f"Stopped at step {step} of {steps}."
        case LearnerState.WAITING if not report.workers and not step:
            return "Waiting for the first worker."
        case _:
            return f"Training, step {step} of {steps}."
