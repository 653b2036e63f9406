"""A worker whose engine takes new weights only in part."""

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.learner_side import TOKEN, LearnerSide
from tests.loaded_rewards import load_rewards
from tests.task_streams import close_streams, open_streams
from tests.tiny_models import CONTEXT_LENGTH
from volley.rollout.engine import LoadFailed
from volley.rollout.engine_transformers import TransformersEngine
from volley.rollout.episodes import Episodes
from volley.rollout.evaluating import Evaluating
from volley.rollout.tokenizer import Tokenizer
from volley.rollout.weight_sync import WeightSync
from volley.rollout.worker import LOAD_ATTEMPTS, Worker
from volley.schemas.groups import Group, Version
from volley.transport.learner_client import LearnerClient


class FailingEngine(TransformersEngine):
    """Breaks off its first loads, and says if it is asked to sample then."""

    def __init__(self, folder: Path, num_failures: int) -> None:
        super().__init__(folder, "float32", "cpu", 16, CONTEXT_LENGTH)
        self.num_loads = 0
        self._num_failures = num_failures

    def load(self, tensors: Mapping[str, torch.Tensor], version: Version) -> None:
        self.num_loads += 1
        if self.num_loads <= self._num_failures:
            raise LoadFailed("broken off")
        super().load(tensors, version)


def work(side: LearnerSide, engine: FailingEngine, folder: Path, leaving: threading.Event) -> None:
    """What `run_worker` does, with this engine and without a heartbeat."""
    client, run = LearnerClient(side.url, TOKEN), side.spec.run
    rewards = load_rewards(side.spec.rewards, folder)
    tokenizer = Tokenizer(folder)
    streams = open_streams(side.spec, "w", rewards, tokenizer.text_of, leaving)
    weights = WeightSync(client, run, wait_s=0.1)
    episodes = Episodes(engine, tokenizer, side.spec.vocab_size, None)
    worker = Worker(
        *("w", side.spec, engine, episodes, weights, streams[0]),
        *(Evaluating("w", episodes, streams[1]), leaving),
    )
    weights.start()
    try:
        worker.run()
    finally:
        weights.close(10)
        close_streams(streams)
        client.close()
        engine.close()


def test_a_load_that_breaks_off_is_tried_again_and_the_worker_goes_on(
    tmp_path, redis_url, run_name, caplog
):
    with LearnerSide(tmp_path, redis_url, run_name) as side:
        side.publish(0)
        side.issue(side.task(0))
        engine = FailingEngine(tmp_path / "model", num_failures=LOAD_ATTEMPTS - 1)
        leaving = threading.Event()
        worker = threading.Thread(
            target=work, args=(side, engine, tmp_path / "model", leaving), daemon=True
        )
        worker.start()
        (group,) = side.collect(1).values()
        leaving.set()
        worker.join(20)
    assert isinstance(group, Group)
    assert engine.num_loads == LOAD_ATTEMPTS
    assert caplog.text.count("broken off") == LOAD_ATTEMPTS - 1


def test_a_load_that_breaks_off_again_and_again_ends_the_worker(tmp_path, redis_url, run_name):
    with LearnerSide(tmp_path, redis_url, run_name) as side:
        side.publish(0)
        engine = FailingEngine(tmp_path / "model", num_failures=LOAD_ATTEMPTS)
        with pytest.raises(LoadFailed):
            work(side, engine, tmp_path / "model", threading.Event())
