"""`volley learner`, except that a step trains nothing: what is left is all that workers wait for.

    python bench/measuring/idle_learner.py CONFIG --run-folder FOLDER

It takes every group as soon as it comes, and publishes other weights once per step all the same.
"""

from collections.abc import Sequence

import torch
import typer

from volley.learner import assembly
from volley.learner.__main__ import learner
from volley.learner.ledger import Disposition
from volley.learner.update import StepResult, Update
from volley.schemas.groups import Group, Version

NUDGE = 1 + 1e-6


class IdleUpdate(Update):
    """Its weights differ from step to step, and sample like those of the start."""

    def step(self, groups: Sequence[Group], head: Version, *_: object, **__: object) -> StepResult:
        with torch.no_grad():
            for parameter in self._policy.parameters().values():
                parameter.mul_(NUDGE if head.step % 2 else 1 / NUDGE)
        dispositions = {group.number: Disposition.TRAINED for group in groups}
        return StepResult(
            applied=True, dispositions=dispositions, set_aside=(), metrics={"reward_mean": None}
        )


if __name__ == "__main__":
    # Here rather than by a setting: nobody who trains has a use for it.
    assembly.Update = IdleUpdate
    app = typer.Typer(add_completion=False)
    app.command()(learner)
    app()
