"""What happens to a run around its learner: bad losses, dying workers, a full disk, Redis away."""

import resource
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from tests.processes import (
    CONFIG,
    REWARDS,
    SLOW_REWARDS,
    Running,
    learner,
    metrics,
    refusal,
    retried,
    worker,
    write_run,
)
from tests.run_folders import is_clean
from tests.waiting import wait_until
from volley.launcher.__main__ import app
from volley.learner.past_run import open_run
from volley.transport.learner_client import LearnerClient
from volley.transport.redis_stream import connect

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(600)]

DEADLINE_S = 90.0
LEASE_S = 1.0
DURABLE = """
[checkpoint]
every_steps = 2
keep_all_steps = true
min_free_bytes = 0
"""
SPOILABLE = """
from pathlib import Path

def variety(prompts, completions, **columns):
    is_bad = Path(__file__).with_name("bad").exists()
    return [float(len(set(text))) * (1e38 if is_bad else 1.0) for text in completions]
"""
WORKER_DEATHS = (
    "mid-generation@9",
    "mid-reward@3",
    "after-complete@2",
    "mid-download@2",
    "mid-swap@2",
)


@pytest.fixture
def write(tmp_path):
    def write(config: str = CONFIG, rewards: str = REWARDS, steps: int = 100_000) -> Path:
        text = config.replace("steps = 3", f"steps = {steps}").replace(
            "lease_s = 2.0", f"lease_s = {LEASE_S}"
        )
        return write_run(tmp_path, text + DURABLE, rewards=rewards)

    return write


def step_of(client: LearnerClient) -> int:
    return client.status().version.step


def num_skipped(client: LearnerClient) -> int:
    return client.status().ledger.skipped


def is_dead_or_spared(worker: Running, client: LearnerClient) -> bool:
    return worker.process.poll() is not None or num_skipped(client) > 0


def wait_for_steps(client: LearnerClient, num_steps: int) -> None:
    goal = step_of(client) + num_steps
    wait_until(lambda: step_of(client) >= goal, DEADLINE_S)


def test_a_bad_loss_is_never_applied_and_the_run_stays_stopped_until_a_person_says_so(
    redis_url, write
):
    config = write(CONFIG + '\n[loss]\nscale_rewards = "none"\n', SPOILABLE)
    bad = config.with_name("bad")
    with learner(config, redis_url) as (spoilt, client, folder), worker(folder, "w"):
        wait_for_steps(client, 2)
        bad.touch()
        assert spoilt.process.wait(DEADLINE_S) == 4, spoilt.log.read_text()
    assert "loss or gradient was not finite in 3 rounds in a row" in spoilt.log.read_text()
    last = metrics(folder)[-1]
    with open_run(folder) as run:
        outcomes = [run.log.outcome(place) for place in run.log.places()[-3:]]
    assert all(one is not None and not one.applied for one in outcomes)
    assert all(one is not None and one.root == str(last["root"]) for one in outcomes)
    code, words = refusal(config, redis_url, folder)
    assert code == 4
    assert "--continue" in words
    bad.unlink()
    goal = ("--set", f"run.steps={int(last['step']) + 2}", "--continue")
    with learner(config, redis_url, *goal) as (mended, client, folder), worker(folder, "w"):
        assert mended.process.wait(DEADLINE_S) == 0, mended.log.read_text()
    assert metrics(folder)[-1]["step"] == last["step"] + 2
    assert is_clean(folder)


def test_workers_that_die_anywhere_lose_nothing_and_train_nothing_twice(redis_url, write):
    config = write()
    # Without staleness a step needs every number that is out, so a gap would stop the run.
    on_policy = ("--set", "queue.max_staleness=0")
    with ExitStack() as stack:
        trainer, client, folder = stack.enter_context(learner(config, redis_url, *on_policy))
        dying = [
            stack.enter_context(worker(folder, failpoint.partition("@")[0], failpoint=failpoint))
            for failpoint in WORKER_DEATHS
        ]
        for one in dying:
            assert one.process.wait(DEADLINE_S) == -signal.SIGKILL, one.log.read_text()
        stack.enter_context(worker(folder, "living"))
        wait_for_steps(client, 4)
        status = client.status()
        assert retried(status, "lease") >= 1
        assert status.ledger.skipped == 0
        assert trainer.stop() == 0
    assert is_clean(folder)


def test_a_sigterm_ends_the_learner_after_its_step_and_a_second_one_at_once(redis_url, write):
    many_batches = CONFIG.replace("groups_per_step = 4", "groups_per_step = 32")
    config = write(many_batches.replace("[devices]", "micro_batch_tokens = 16\n[devices]"))
    in_a_step = {"failpoint": "mid-backward@5:stop"}
    with learner(config, redis_url, **in_a_step) as (trainer, _, folder):
        with worker(folder, "w"):
            wait_until(lambda: is_frozen(trainer), DEADLINE_S)
        tell_to_stop(trainer)
        assert trainer.process.wait(DEADLINE_S) == 0, trainer.log.read_text()
    assert [line["step"] for line in metrics(folder)] == [1]
    with open_run(folder) as run:
        assert run.checkpoints[0].state.version.step == 1
    with learner(config, redis_url, **in_a_step) as (trainer, _, folder):
        with worker(folder, "w"):
            wait_until(lambda: is_frozen(trainer), DEADLINE_S)
        tell_to_stop(trainer)
        # From the first one on the second one is the system's to handle.
        wait_until(lambda: not catches_sigterm(trainer))
        assert trainer.stop() == -signal.SIGTERM
    assert [line["step"] for line in metrics(folder)] == [1], "the step in hand was not finished"
    steps = ("--set", "run.steps=3")
    with learner(config, redis_url, *steps) as (trainer, _, folder), worker(folder, "w"):
        assert trainer.process.wait(DEADLINE_S) == 0, trainer.log.read_text()
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3]
    assert is_clean(folder)


def is_frozen(running: Running) -> bool:
    return psutil.Process(running.process.pid).status() == psutil.STATUS_STOPPED


def tell_to_stop(frozen: Running) -> None:
    for number in (signal.SIGTERM, signal.SIGCONT):
        frozen.process.send_signal(number)


def catches_sigterm(running: Running) -> bool:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    (caught,) = [line for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_late_answers_to_a_learner_that_was_frozen_are_duplicates(redis_url, write):
    config = write(rewards=SLOW_REWARDS)
    with (
        learner(config, redis_url) as (trainer, client, folder),
        worker(folder, "w") as answering,
    ):
        wait_for_steps(client, 2)
        before = client.status()
        wait_until(lambda: are_frozen_with_a_task_out(redis_url, trainer, answering), DEADLINE_S)
        thaws = time.monotonic() + 2 * LEASE_S
        wait_until(lambda: time.monotonic() > thaws)
        trainer.process.send_signal(signal.SIGCONT)
        wait_until(lambda: retried(client.status(), "lease") > retried(before, "lease"), DEADLINE_S)
        answering.process.send_signal(signal.SIGCONT)
        wait_until(
            lambda: client.status().deliveries.duplicate > before.deliveries.duplicate, DEADLINE_S
        )
        wait_for_steps(client, 3)
        assert trainer.stop() == 0
    assert is_clean(folder)


def are_frozen_with_a_task_out(redis_url: str, trainer: Running, answering: Running) -> bool:
    """Whether both have stopped while the worker held a task."""
    for one in (trainer, answering):
        one.process.send_signal(signal.SIGSTOP)
    with connect(redis_url) as redis:
        if redis.xpending("volley:{run}:tasks", "workers")["pending"]:
            return True
    for one in (trainer, answering):
        one.process.send_signal(signal.SIGCONT)
    return False


def test_a_full_disk_is_waited_for(redis_url, write):
    config = write()
    with learner(config, redis_url) as (trainer, client, folder), worker(folder, "w"):
        wait_for_steps(client, 2)
        no_limit = resource.prlimit(trainer.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(trainer.process.pid, resource.RLIMIT_FSIZE, (64, no_limit[1]))
        wait_until(lambda: client.status().disk.startswith("degraded: cannot write"), DEADLINE_S)
        step = step_of(client)
        assert trainer.process.poll() is None
        resource.prlimit(trainer.process.pid, resource.RLIMIT_FSIZE, no_limit)
        wait_until(lambda: client.status().disk == "ok", DEADLINE_S)
        wait_until(lambda: step_of(client) >= step + 3, DEADLINE_S)
        assert trainer.stop() == 0
    assert is_clean(folder)


def test_below_its_minimum_of_free_bytes_nothing_is_issued(redis_url, write):
    config = write()
    minimum = ("--set", f"checkpoint.min_free_bytes={2**60}")
    with learner(config, redis_url, *minimum) as (trainer, client, _):
        wait_until(lambda: "fewer than checkpoint.min_free_bytes" in client.status().disk)
        assert client.status().ledger.issued == 0
        assert trainer.stop() == 0


def test_redis_may_go_come_back_and_come_back_empty(redis_server, write):
    config = write()
    # Without staleness a step needs every number that is out, so a gap would stop the run.
    on_policy = ("--set", "queue.max_staleness=0")
    with (
        learner(config, redis_server.url, *on_policy) as (trainer, client, folder),
        worker(folder, "w") as answering,
    ):
        wait_for_steps(client, 2)
        redis_server.kill()
        for one in (trainer, answering):
            wait_until(partial(says, one, "waiting for Redis"), DEADLINE_S)
        assert client.status().redis.startswith("degraded")
        redis_server.start()
        wait_until(lambda: client.status().redis == "ok", DEADLINE_S)
        wait_for_steps(client, 2)
        answering.process.send_signal(signal.SIGSTOP)
        with connect(redis_server.url) as redis:
            wait_until(lambda: redis.xlen("volley:{run}:tasks"), DEADLINE_S)
            redis.flushall()
        answering.process.send_signal(signal.SIGCONT)
        wait_for_steps(client, 3)
        assert answering.process.poll() is None
        assert trainer.stop() == 0
    assert is_clean(folder)


def says(running: Running, words: str) -> bool:
    return words in running.log.read_text()


def test_a_task_that_kills_its_workers_is_given_up_and_kept(redis_url, write):
    config = write()
    attempts = ("--set", "queue.max_attempts=3")
    with learner(config, redis_url, *attempts) as (trainer, client, folder):
        num_deaths = 0
        while not num_skipped(client):
            with worker(folder, "dying", failpoint="mid-reward#1") as dying:
                # A lease that a busy machine lets run out counts too: the third may live.
                wait_until(partial(is_dead_or_spared, dying, client), DEADLINE_S)
                num_deaths += dying.process.poll() == -signal.SIGKILL
        assert num_deaths >= 2
        with worker(folder, "living"):
            wait_for_steps(client, 2)
        assert num_skipped(client) == 1
        assert trainer.stop() == 0
    told = CliRunner().invoke(app, ["dead", str(folder), "ls"])
    assert told.exit_code == 0
    assert "skipped" in told.output
    assert is_clean(folder)
