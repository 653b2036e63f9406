"""The sort demo in containers: up, scaled, hurt, and down again while it trains."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import urllib3

from tests.compose.stack import Stack, inspect, run
from tests.compose.story import Story
from tests.waiting import wait_until
from volley.schemas.status import StatusReport, WorkerReport

ENDLESS = "100000"
# Everything in the container but the init, whose end would be a stop that Docker was asked for.
KILL_ALL = "kill -9 -1"


class Deaths:
    """Exit codes of a project's containers, in the order in which they end."""

    def __init__(self, project: str, file: Path) -> None:
        self._file = file
        label = f"label=com.docker.compose.project={project}"
        with file.open("w") as stdout:
            self._events = subprocess.Popen(
                ["docker", "events", "--filter", label, "--filter", "event=die",
                 "--format", "{{json .Actor.Attributes}}"],
                stdout=stdout,
            )  # fmt: skip

    def all(self) -> list[tuple[str, str]]:
        """Service and exit code of each."""
        lines = [json.loads(line) for line in self._file.read_text().splitlines()]
        return [(line["com.docker.compose.service"], line["exitCode"]) for line in lines]

    def close(self) -> None:
        self._events.terminate()
        self._events.wait()


@pytest.fixture(scope="module")
def deaths(project: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deaths]:
    listening = Deaths(project, tmp_path_factory.mktemp("deaths") / "events")
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def stack(project: str, deaths: Deaths, story: Story) -> Iterator[Stack]:
    """The demo, going on for ever."""
    stack, started = Stack(project, VOLLEY_DEMO_STEPS=ENDLESS), time.monotonic()
    try:
        stack.compose("up", "--detach", "--no-build")
        story.tell("up: built the demo, learner healthy", time.monotonic() - started)
        status = stack.wait_for_steps(1)
        story.tell("first step", time.monotonic() - started, 0, status.version.step, 1)
        yield stack
    finally:
        stack.down()


def test_only_who_has_the_token_is_told_the_status(stack):
    url = f"http://127.0.0.1:{stack.port}/v1/status"
    with urllib3.PoolManager() as http:
        assert http.request("GET", url).status == 401
        wrong = http.request("GET", url, headers={"Authorization": "Bearer wrong"})
        assert wrong.status == 401
        right = http.request("GET", url, headers={"Authorization": f"Bearer {stack.token()}"})
    assert right.json()["run"] == "demo"


def test_no_secret_is_in_a_command_line_or_an_environment(stack):
    password = stack.compose("exec", "--no-TTY", "redis", "cat", "/secrets/redis_password")
    assert password
    ids = [one for name in ("redis", "learner", "rollout") for one in stack.containers(name)]
    seen = "".join(inspect(one, "{{json .}}") + run(["docker", "top", one]).stdout for one in ids)
    assert password not in seen
    assert stack.token() not in seen


def test_only_the_learner_can_be_reached_from_outside_and_only_from_this_machine(stack):
    published = {
        name: json.loads(inspect(container, "{{json .HostConfig.PortBindings}}"))
        for name in ("redis", "learner", "rollout")
        for container in stack.containers(name)
    }
    (binding,) = published.pop("learner")["8000/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    assert not any(published.values())


def test_workers_come_and_go_while_the_run_goes_on(stack, story):
    for num_workers in (3, 1):
        with story.chapter(f"scaled to {num_workers}", stack):
            stack.compose("up", "--detach", "--no-build", "--scale", f"rollout={num_workers}")
            stack.wait_for_workers(lambda workers, wanted=num_workers: len(workers) == wanted)
            stack.wait_for_steps(3)


def test_a_worker_that_is_killed_is_started_again(stack, story):
    (killed,) = stack.status().workers
    (container,) = stack.containers("rollout")
    with story.chapter("killed a worker with -9", stack):
        kill = run(["docker", "exec", container, "sh", "-c", f"kill -9 {killed.pid}"])
        assert kill.returncode == 0, kill.stderr
        stack.wait_for_workers(lambda workers: has_other_than(killed, workers))
    assert inspect(container, "{{.RestartCount}}") == "1"


def has_other_than(killed: WorkerReport, workers: Sequence[WorkerReport]) -> bool:
    return any(worker.worker != killed.worker for worker in workers)


def test_redis_may_be_restarted(stack, story):
    with story.chapter("restarted Redis", stack):
        stack.compose("restart", "redis")
        assert stack.wait_for_steps(3).redis == "ok"


def test_a_worker_with_vllm_joins_the_run(stack, story):
    with story.chapter("a worker with vLLM joined", stack):
        stack.compose("--profile", "vllm", "up", "--detach", "--no-build")
        stack.wait_for_workers(lambda workers: "vllm" in {worker.engine for worker in workers})


@pytest.mark.parametrize("end", ["kill -9", "restart"])
def test_a_learner_that_ends_goes_on_where_it_was_and_its_workers_wait(stack, story, end):
    before = stack.status()
    with story.chapter(f"learner: {end}", stack):
        if end == "restart":
            stack.compose("restart", "learner")
        else:
            stack.compose("exec", "--no-TTY", "learner", "sh", "-c", KILL_ALL)
        after = stack.wait_for_step(before.version.step + 3)
    assert after.version.epoch == before.version.epoch + 1
    assert names(after) <= names(before)


def names(status: StatusReport) -> set[str]:
    """Of the workers, one per process."""
    return {worker.worker for worker in status.workers}


def test_down_ends_everything_cleanly_and_up_goes_on_where_it_was(stack, deaths, story):
    before = stack.status()
    num_up = len(run(["docker", "compose", "-p", stack.project, "ps", "-q"]).stdout.split())
    num_dead, started = len(deaths.all()), time.monotonic()
    stack.compose("--profile", "*", "down")
    story.tell("down", time.monotonic() - started)
    wait_until(lambda: len(deaths.all()) == num_dead + num_up)
    codes = dict(deaths.all()[num_dead:])
    assert codes == dict.fromkeys(("redis", "learner", "rollout", "rollout-vllm"), "0")
    started = time.monotonic()
    stack.compose("up", "--detach", "--no-build")
    after = stack.wait_for_step(before.version.step + 3)
    steps = before.version.step, after.version.step
    story.tell("up again", time.monotonic() - started, *steps, len(after.workers))
    assert after.version.epoch == before.version.epoch + 1
    assert after.ledger.trained > before.ledger.trained


def test_a_model_is_evaluated_on_held_out_prompts(stack):
    told = stack.compose(
        *("run", "--rm", "--no-TTY", "evaluate", "/project/config.toml", "/project/held_out.jsonl"),
        *("--model", "/project/start", "--num-generations", "1", "--json"),
    )
    metrics = json.loads(told)["metrics"]
    assert metrics["num_answered"] == 500
    # It has seen few right answers, and knows what they look like.
    assert 0 < metrics["reward"] < 0.3 < metrics["reward_greedy"] < 1


def test_nothing_is_left_but_the_images(stack):
    stack.down()
    assert stack.leftovers() == []
