"""What a run leaves to be read: a line of metrics a step, and a summary at the end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from volley.learner.evaluations import best_of
from volley.learner.lengths import Completion, describe_lengths
from volley.learner.metrics_file import MetricsFile, MetricsLine
from volley.learner.prompts import Prompts
from volley.learner.run_folder import RunFolder
from volley.learner.status import Progress
from volley.learner.step_log import Outcome
from volley.learner.trackers import Trackers
from volley.learner.update import StepResult
from volley.schemas.groups import Group
from volley.schemas.status import EvaluationReport, LearnerState, StatusReport


class Record:
    """Counts and times what the loop does; writes metrics.jsonl and summary.json."""

    def __init__(
        self, folder: RunFolder, progress: Progress, prompts: Prompts, trackers: Trackers
    ) -> None:
        self._folder = folder
        self._trackers = trackers
        self._metrics = MetricsFile(folder.metrics)
        self._evaluations = MetricsFile(folder.evaluations)
        self._progress = progress
        self._prompts = prompts
        self._seconds: dict[LearnerState, float] = {}
        self._before = (0, 0)
        self._first_issue_s = self._last_step_s = time.monotonic()

    def resume(self, taken: Sequence[Outcome]) -> list[MetricsLine]:
        """The lines of metrics.jsonl, made to end with the head whatever a crash left in it.

        `taken` are the outcomes of the steps since the last checkpoint.
        """
        head = self._progress.version.step
        lines = [line for line in self._metrics.read() if line.version.step <= head]
        known = {line.version.step for line in lines}
        lines += [
            MetricsLine(outcome.version, outcome.root, outcome.metrics)
            for outcome in taken
            if outcome.applied and outcome.version.step not in known
        ]
        self._metrics.rewrite(lines)
        return lines

    def resume_evaluations(self) -> list[MetricsLine]:
        """The lines of evaluations.jsonl, without those of versions that were given up."""
        head = self._progress.version.step
        lines = [line for line in self._evaluations.read() if line.version.step <= head]
        self._evaluations.rewrite(lines)
        if lines:
            self._progress.evaluation = _report(lines[-1])
        return lines

    @contextmanager
    def timing(self, state: LearnerState) -> Iterator[None]:
        """The loop is in `state` while inside; the seconds go into the step's metrics."""
        self._progress.state = state
        start = time.monotonic()
        try:
            yield
        finally:
            spent = self._seconds.get(state, 0.0)
            self._seconds[state] = spent + time.monotonic() - start

    def begin(self) -> None:
        """The first task is about to be issued: rates count from here, and the run is not over."""
        self._folder.forget_summary()
        self._before = (self._progress.num_samples, self._progress.num_tokens)
        self._first_issue_s = self._last_step_s = time.monotonic()
        self._trackers.start(self._metrics.read(), self._evaluations.read())

    def write(self, line: MetricsLine) -> None:
        """Add a step to metrics.jsonl; raises OSError."""
        self._metrics.append(line)
        self._trackers.step(line)

    def evaluation(self, line: MetricsLine) -> None:
        """Add a version that was evaluated; raises OSError."""
        self._evaluations.append(line)
        self._trackers.evaluation(line)
        self._progress.evaluation = _report(line)

    def step(
        self, groups: Sequence[Group], result: StepResult, stale: Sequence[Completion]
    ) -> MetricsLine:
        """Count a step that was applied; what there is to write about it."""
        num_tokens = sum(one.num_tokens for group in groups for one in group.trajectories)
        num_samples = sum(len(group.trajectories) for group in groups)
        now = time.monotonic()
        step_s, self._last_step_s = now - self._last_step_s, now
        progress = self._progress
        progress.num_samples += num_samples
        progress.num_tokens += num_tokens
        progress.metrics = {
            **result.metrics,
            **describe_lengths([*result.completions, *stale]),
            "num_samples": progress.num_samples,
            "samples_per_s": num_samples / step_s,
            "tokens_per_s": num_tokens / step_s,
            "waiting_s": self._seconds.get(LearnerState.WAITING, 0.0),
            "training_s": self._seconds.get(LearnerState.TRAINING, 0.0),
            "publishing_s": self._seconds.get(LearnerState.PUBLISHING, 0.0),
        }
        progress.sample = self._sample(groups[0])
        self._seconds.clear()
        return MetricsLine(progress.version, progress.root, progress.metrics)

    def summary(self, status: StatusReport) -> None:
        """Write what came of the run."""
        issue_to_step_s = self._last_step_s - self._first_issue_s
        rate = 1.0 / issue_to_step_s if issue_to_step_s > 0 else 0.0
        samples_before, tokens_before = self._before
        self._folder.write_json(
            "summary.json",
            {
                "run": status.run,
                "state": status.state.value,
                "steps": status.version.step,
                "samples": status.num_samples,
                "samples_per_s": (status.num_samples - samples_before) * rate,
                "tokens_per_s": (self._progress.num_tokens - tokens_before) * rate,
                "wall_s": status.uptime_s,
                "engine": ", ".join(sorted({worker.engine for worker in status.workers})),
                "final_epoch": status.version.epoch,
                "final_step": status.version.step,
                "final_root": status.root,
                "ledger": asdict(status.ledger),
                **self._evaluations_in_short(),
            },
        )

    def close(self) -> None:
        """Let the trackers finish."""
        self._trackers.close()

    def _evaluations_in_short(self) -> dict[str, object]:
        """The last one and the best one, of a run that is evaluated."""
        lines = self._evaluations.read()
        named = {"evaluation": lines[-1:], "best_evaluation": best_of(lines)}
        return {
            name: {"step": line.version.step, "root": line.root, **line.metrics}
            for name, some in named.items()
            for line in some
        }

    def _sample(self, group: Group) -> str:
        prompt = self._prompts[group.number].prompt
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        first = group.trajectories[0]
        return f"{asked} {first.text} (rewards {', '.join(map(str, first.rewards))})"


def _report(line: MetricsLine) -> EvaluationReport:
    return EvaluationReport(line.version, line.root, line.metrics)
