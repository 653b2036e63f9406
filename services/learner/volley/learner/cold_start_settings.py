"""The [cold_start] section: fine-tuning on demonstrations before GRPO begins."""

from math import ceil
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from volley.learner.section import PositiveFloat, PositiveInt, Section


class ColdStartSettings(Section):
    """GRPO learns from differences between answers: a model that never succeeds needs examples."""

    data: Path
    """JSONL with `prompt` and `completion`, or `messages`; see docs/operations.md."""
    steps: PositiveInt | None = None
    """Optimiser steps; left out: as many as num_train_epochs take."""
    num_train_epochs: PositiveFloat | None = None
    """Passes over the data; left out, as well as steps: 3."""
    batch_size: PositiveInt = 64
    """Demonstrations in a step."""
    learning_rate: PositiveFloat = 1e-5
    """Constant after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: PositiveFloat = 1.0
    save_steps: PositiveInt = 50
    """Steps between two checkpoints of the cold start."""

    @model_validator(mode="after")
    def _is_of_one_length(self) -> Self:
        if self.steps is not None and self.num_train_epochs is not None:
            raise ValueError("steps and num_train_epochs both say how long it takes: remove one")
        return self

    def num_steps(self, num_demonstrations: int) -> int:
        """Optimiser steps over this much data."""
        if self.steps is not None:
            return self.steps
        return ceil((self.num_train_epochs or 3.0) * num_demonstrations / self.batch_size)
