"""A learner that is killed at every point where it could hurt, and the audit of what it left."""

import signal

import pytest

from tests.processes import CONFIG, learner, metrics, worker, write_run
from tests.run_folders import is_clean

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(600)]

DEADLINE_S = 90.0
DURABLE = """
[checkpoint]
every_steps = 2
keep_all_steps = true
min_free_bytes = 0
"""
DEATHS = (
    "after-collect@2",
    "after-log@1",
    "after-log@2",
    "after-drop@1",
    "mid-backward@3",
    "after-optimizer-step@2",
    "after-blobs@2",
    "after-outcome@1",
    "after-publish@2",
    "mid-checkpoint@1",
    "before-checkpoint-rename@1",
    "after-checkpoint-rename@1",
)


def test_killed_at_every_point_it_loses_nothing_and_trains_nothing_twice(redis_url, tmp_path):
    config = write_run(tmp_path, CONFIG.replace("steps = 3", "steps = 30") + DURABLE)
    with learner(config, redis_url) as (process, client, folder):
        port = client.url.rpartition(":")[2]
        with worker(folder, "w") as answering:
            assert process.stop() == 0, process.log.read_text()
            for death in DEATHS:
                on_port = ("--set", f"server.port={port}")
                with learner(config, redis_url, *on_port, failpoint=death) as (dying, _, _):
                    assert dying.process.wait(DEADLINE_S) == -signal.SIGKILL, (
                        death,
                        dying.log.read_text(),
                    )
            with learner(config, redis_url, *on_port) as (living, _, _):
                assert living.process.wait(DEADLINE_S) == 0, living.log.read_text()
            assert answering.process.wait(DEADLINE_S) == 0, answering.log.read_text()
    assert [line["step"] for line in metrics(folder)] == list(range(1, 31))
    assert is_clean(folder)
