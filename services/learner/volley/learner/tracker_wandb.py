"""Weights & Biases: one run that goes on after every resume; WANDB_MODE=offline for files alone."""

from collections.abc import Mapping

import wandb

from volley.learner.tracker import CLOSE_S, TrackedRun


class WandbTracker:
    """A Tracker of figures and of what the machine does; no code and no output."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = wandb.init(
            project=run.project,
            id=run.id,
            name=run.name,
            resume="allow",
            config=dict(run.config),
            dir=str(run.folder),
            settings=wandb.Settings(
                # Standard output is the line that workers are told by.
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                finish_timeout=CLOSE_S,
            ),
        )
        # Its own count refuses what comes late, as evaluations of earlier steps do.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()
