"""A run of three steps with an insertion in the second one, as its folder keeps it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.builders import make_group, make_trajectory
from tests.solo_learner import SoloLearner, write_config
from tests.tiny_models import VOCAB, save_tiny_qwen3
from volley.schemas.groups import Group


@contextmanager
def run_of_three_steps(folder: Path) -> Iterator[SoloLearner]:
    """A run that goes on: steps of numbers 0 and 1, of 2 and 3, of 4 and 5."""
    learner = SoloLearner(write_config(folder, save_tiny_qwen3(folder / "model")))
    run = learner.folder.run
    try:
        learner.take(0, 1)
        learner.log(two_turns(2, run, 0.0), two_turns(3, run, None))
        learner.conclude(learner.train())
        learner.take(4, 5)
        yield learner
    finally:
        learner.die()


def two_turns(number: int, run: str, other_reward: float | None) -> Group:
    """A trajectory with an insertion, and one without."""
    asked = make_trajectory(
        [1.0],
        token_ids=[*ids("ask=b"), VOCAB["<eos>"]],
        inserted=[(3, 4)],
        sampler_logprobs=[-0.5, -0.25, -2.0, 0.0, -0.125, -1.0],
        text="ask=b",
    )
    trajectories = [
        msgspec.structs.replace(asked, metrics={"searches": 1.0}),
        make_trajectory([other_reward], token_ids=ids("no")),
    ]
    return make_group(number=number, run=run, prompt_ids=ids("go"), trajectories=trajectories)


def ids(text: str) -> list[int]:
    """A token a letter."""
    return [VOCAB[letter] for letter in text]
