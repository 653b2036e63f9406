"""What a group and a step on it say about a run: findings from their figures alone."""

from collections.abc import Iterator, Sequence

from volley.launcher.findings import Finding, Level, ok, warn
from volley.learner.alarms import Alarms
from volley.learner.settings import Settings
from volley.learner.step_metrics import Metrics
from volley.learner.trajectory_record import TrajectoryRecord

AGREEMENT = ("mismatch", "ratio", "samples")
"""Alarms about weights of which nobody has another version yet."""


def reward_findings(
    rewards: Sequence[float | None], complaints: Sequence[str]
) -> Iterator[Finding]:
    """Whether all completions have a reward, and not the same one."""
    given = [reward for reward in rewards if reward is not None]
    if len(given) < len(rewards):
        yield _missing(len(rewards) - len(given), len(rewards), complaints)
    if not given:
        return
    least, greatest = min(given), max(given)
    if least < greatest:
        yield ok("rewards", f"{len(given)} from {least:.4g} to {greatest:.4g}: there is a signal")
    else:
        yield warn(
            "rewards",
            f"all {len(given)} are {least:.4g}: nothing can be learnt from this group",
            "look at another one (--set run.seed=N); if all are so: easier prompts, a finer "
            "reward, more sampling.num_generations, or a [cold_start]",
        )


def _missing(num_missing: int, num_completions: int, complaints: Sequence[str]) -> Finding:
    reason = complaints[0] if complaints else "the reward is None"
    found = f"{num_missing} of {num_completions} completions have none, and are not trained"
    return Finding(Level.WARN, "rewards", f"{found}: {reason}")


def length_finding(records: Sequence[TrajectoryRecord], max_completion_length: int) -> Finding:
    """Whether the model comes to an end."""
    num_cut = sum(record.stop_reason.is_truncated for record in records)
    lengths = [len(record.input_ids) - len(record.prompt_ids) for record in records]
    found = (
        f"up to {max(lengths)} tokens of at most {max_completion_length}, "
        f"{num_cut} of {len(records)} cut off"
    )
    if num_cut < len(records):
        return ok("completions", found)
    return warn(
        "completions",
        found,
        "raise sampling.max_completion_length (or environment.max_turns); if the model never ends, "
        "see its end tokens: sampling.stop_token_ids takes more",
    )


def trained_finding(records: Sequence[TrajectoryRecord], metrics: Metrics) -> Finding:
    """How much of a group with a signal is trained."""
    num_tokens = sum(len(one.input_ids) - len(one.prompt_ids) for one in records)
    num_trained, num_sequences = metrics["num_tokens"] or 0, metrics["num_sequences"] or 0
    found = (
        f"{num_trained:.0f} of {num_tokens} tokens behind the prompt "
        f"({num_trained / num_tokens:.0%}), in {num_sequences:.0f} of {len(records)} completions"
    )
    if num_sequences or metrics["no_signal_share"]:
        return ok("trained", found)
    advice = "raise sampling.max_completion_length, or see loss.mask_truncated_completions"
    return warn("trained", found, advice)


def step_finding(metrics: Metrics) -> Finding:
    """What a step on the group came to."""
    names = ("loss", "grad_norm", "entropy", "learning_rate")
    return ok("step", ", ".join(f"{name} {shown(metrics[name])}" for name in names))


def agreement_finding(settings: Settings, metrics: Metrics) -> Finding:
    """Whether engine and learner say the same of the same tokens."""
    subject = "engine and learner"
    found = f"kl {shown(metrics['kl'])}, ratio_max {shown(metrics['ratio_max'])}"
    alarms = Alarms(settings.alarms.model_copy(update={"patience": 1})).look(metrics)
    told = [alarm.message for alarm in alarms if alarm.name in AGREEMENT]
    if told:
        return Finding(Level.WARN, subject, f"{found}; {told[0]}")
    return ok(subject, f"{found}: they agree about the tokens")


def shown(number: float | None) -> str:
    """Of a metric; `none` where it has no value."""
    return "none" if number is None else f"{number:.4g}"
