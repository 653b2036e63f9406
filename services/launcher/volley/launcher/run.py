"""A run on one machine: Redis, the learner and the workers, from the first start to the last stop.

    Redis -> learner -> (it says where it listens) -> workers        then, until the learner ends:

    the learner died   start it again at its address, where the workers wait for it: it resumes
    a worker died      start it again
    Redis died         start it again with what it had acknowledged
    the learner says   show it
    told to stop       leave the loop
    finally            stop the learner, the workers, Redis: in this order

What dies is started again later each time, but not after a Stop of its own, nor for ever. A run
folder with state is resumed, by the learner; the run's own Redis is kept beside it until then.

Everything waits in one place, for the supervisor's next event; the learner is asked how it is by a
thread of its own.
"""

import importlib.util
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from rich.console import Console

from volley.launcher.children import Child
from volley.launcher.ending import show_ending
from volley.launcher.progress import Progress
from volley.launcher.redis_server import RedisServer
from volley.launcher.supervisor import (
    Due,
    Ended,
    Interrupted,
    RedisEnded,
    Reported,
    Said,
    Supervisor,
    Told,
)
from volley.learner.metrics_file import MetricsFile
from volley.learner.redis_url import PASSWORD_FILE, read_redis_url
from volley.learner.run_folder import find_run_folder, is_finished
from volley.learner.settings import Settings, load_settings
from volley.learner.token import read_token
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.learner_client import LearnerClient, LearnerError

LEARNER = (sys.executable, "-m", "volley.learner")
ROLLOUT = (sys.executable, "-m", "volley.rollout")
STATUS_INTERVAL_S = 0.5
WORKER_PATIENCE_S = 15.0
"""A worker needs a few seconds to finish or hand back what it holds."""
ENDS_WHEN_TOLD = (ExitCode.DONE, -signal.SIGTERM, -signal.SIGKILL)
"""Before it is up a learner takes no notice of a signal but dies of it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, and where."""

    config: Path
    overrides: tuple[str, ...]
    settings: Settings
    """Of both; the processes read them for themselves."""
    folder: Path
    """The run's; one with state is resumed."""
    token: str
    consent: tuple[str, ...] = ()
    """Options of the learner by which a person lets it go on."""

    @classmethod
    def read(
        cls,
        config: Path,
        overrides: Sequence[str],
        folder: Path | None,
        *,
        fresh: bool = False,
        consent: Sequence[str] = (),
    ) -> "Plan":
        """The plan of a config file; raises Stop.

        Left out, the folder is that of its newest unfinished run, or a new one if there is none or
        it is to be `fresh`.
        """
        settings = load_settings(config, overrides)
        if fresh and folder is not None:
            raise Stop(ExitCode.CONFIG, "--fresh makes a folder of its own: drop --run-folder")
        return cls(
            config.resolve(),
            tuple(overrides),
            settings,
            (folder or find_run_folder(settings.run, fresh=fresh)).resolve(),
            read_token(settings.server),
            tuple(consent),
        )

    @property
    def beginning(self) -> str:
        """What is about to happen, for a person."""
        if not (self.folder / "run.json").exists():
            return f"run folder {self.folder}"
        lines = MetricsFile(self.folder / "metrics.jsonl").read()
        step = lines[-1].version.step if lines else 0
        return (
            f"resuming {self.folder} at step {step} of {self.settings.run.steps} "
            "(--fresh starts another run)"
        )


def run_plan(plan: Plan) -> None:
    """Train as planned, in front of a person; returns at the end or when told to stop."""
    console = Console()
    console.print(plan.beginning, highlight=False, soft_wrap=True)
    with Supervisor() as supervisor, suppress(Interrupted):
        train(plan, supervisor, console)
    show_ending(console, plan.folder, plan.settings.run.steps, plan.config)


def train(plan: Plan, supervisor: Supervisor, console: Console) -> None:
    """Return when the steps are taken; raises Interrupted, or the Stop of a child.

    Nothing of the run is left running, however it ends.
    """
    with Progress(console, plan.settings.logging.sample_every) as progress:
        Run(plan, supervisor, progress).train()


class _Announcement(msgspec.Struct):
    """The line that a learner writes when it listens."""

    url: str


class Run:
    """The processes of one run, under a supervisor."""

    def __init__(self, plan: Plan, supervisor: Supervisor, progress: Progress) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._progress = progress
        self._feed = _StatusFeed(supervisor)
        self._workers: list[Child] = []
        self._url: str | None = None
        """The learner's, from its first start on."""
        self._best_step = 0

    def train(self) -> None:
        """Start everything, react until the end, stop everything; see the function `train`."""
        with self._redis_url() as redis_url:
            learner = self._learner(redis_url)
            self._supervisor.start(learner)
            try:
                was_told = self._until_told_or_over(learner)
            finally:
                self._feed.stop()
                self._supervisor.stop([learner])
                self._supervisor.stop(self._workers, WORKER_PATIENCE_S)
        self._judge(learner, was_told)

    def _until_told_or_over(self, learner: Child) -> bool:
        """React to what happens until the learner ends, or until told to stop: then True."""
        while True:
            match self._supervisor.next_event():
                case Reported(report):
                    self._progress.show(report)
                    if report.version.step > self._best_step:
                        self._best_step = report.version.step
                        learner.forgive()
                case Said(line=line):
                    self._learner_listens(
                        learner, msgspec.json.decode(line, type=_Announcement).url
                    )
                case Ended(child) if child is learner and learner.exit_code in set(ExitCode):
                    return False
                case Ended(child):
                    self._start_again(child)
                case Due(child):
                    self._supervisor.start(child)
                case RedisEnded(server):
                    self._progress.note("Redis died, it is started again")
                    server.start()
                    self._supervisor.watch_redis(server)
                case Told():
                    self._progress.note("stopping after the step in hand (again: at once) ...")
                    return True

    def _judge(self, learner: Child, was_told: bool) -> None:
        """Raise what the end of the learner means; return if it took all its steps.

        One that was told to stop over HTTP has done so as if the command had been told.
        """
        if learner.exit_code not in (ENDS_WHEN_TOLD if was_told else (ExitCode.DONE,)):
            raise learner.reason()
        if was_told or not is_finished(self._plan.folder):
            raise Interrupted

    @contextmanager
    def _redis_url(self) -> Iterator[str]:
        """The given Redis, else one of the run's own for as long as it is needed."""
        given = read_redis_url(self._plan.settings.queue)
        if given:
            yield given
            return
        folder = self._plan.folder / "redis"
        with RedisServer(folder) as server:
            self._supervisor.watch_redis(server)
            yield server.url
        if is_finished(self._plan.folder):
            # There is nothing in it that anybody needs; otherwise groups that can be trained.
            shutil.rmtree(folder)

    def _learner(self, redis_url: str) -> Child:
        return Child(
            "learner",
            [*self._learner_command(*self._plan.overrides), *self._plan.consent],
            self._plan.folder / "logs" / "learner.log",
            # The password is in the URL by now, and given twice it is refused.
            self._environment() | {"VOLLEY_REDIS_URL": redis_url, PASSWORD_FILE: ""},
            speaks=True,
            # Loading and replaying may take longer than any limit: steps show that it is well.
            quick_death_s=inf,
        )

    def _learner_command(self, *overrides: str) -> list[str]:
        changes = chain.from_iterable(("--set", override) for override in overrides)
        plan = self._plan
        return [*LEARNER, str(plan.config), "--run-folder", str(plan.folder), *changes]

    def _learner_listens(self, learner: Child, url: str) -> None:
        """Let the workers find it, now and whenever it is started again."""
        if self._url is not None:
            return
        self._url = url
        self._progress.note(f"page {url}/ (`volley page` opens it)")
        learner.arguments = self._learner_command(
            *self._plan.overrides, f"server.port={urlsplit(url).port}"
        )
        self._feed.follow(LearnerClient(url, self._plan.token))
        for index, device in enumerate(self._plan.settings.devices.rollout):
            worker = self._worker(index, device, url)
            self._workers.append(worker)
            self._supervisor.start(worker)

    def _worker(self, index: int, device: str, url: str) -> Child:
        plan = self._plan
        return Child(
            f"rollout-{index}",
            [*ROLLOUT, *worker_options(plan.settings, plan.config.parent, device, url)],
            plan.folder / "logs" / f"rollout-{index}.log",
            self._environment(),
        )

    def _environment(self) -> dict[str, str]:
        return environment_of(self._plan.settings, self._plan.token)

    def _start_again(self, child: Child) -> None:
        """Do so after a pause, unless it left in peace; raises its Stop where that is no use."""
        if child.exit_code == ExitCode.DONE:
            return
        pause_s = child.pause_s()
        if child.exit_code == ExitCode.CONFIG or pause_s is None:
            raise child.reason()
        self._progress.note(
            f"{child.name} died ({child.how_it_ended()}), it is started again in {pause_s:g} s; "
            f"see {child.log}"
        )
        self._supervisor.start_later(child, pause_s)


class _StatusFeed:
    """Asks the learner how it is, now and then, and posts what it says."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._over = threading.Event()

    def follow(self, client: LearnerClient) -> None:
        """Begin, with a thread that ends soon after `stop`."""
        threading.Thread(target=self._ask, args=(client,), name="status", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._over.set()

    def _ask(self, client: LearnerClient) -> None:
        while not self._over.wait(STATUS_INTERVAL_S):
            try:
                self._supervisor.post(Reported(client.status()))
            except LearnerError:
                # Its own process says what is wrong with it, or it is about to end.
                continue
        client.close()


def worker_options(
    settings: Settings, code_folder: Path, device: str, learner_url: str
) -> list[str]:
    """What `volley rollout` is told on this machine."""
    options = {
        "--learner": learner_url,
        "--device": device,
        "--threads": str(settings.devices.threads),
        "--engine": engine_of(settings.devices.engine),
        "--code": str(code_folder),
        "--log-format": settings.logging.format,
        "--log-level": settings.logging.level,
    }
    return [*chain.from_iterable(options.items()), *settings.devices.rollout_options]


def environment_of(settings: Settings, token: str) -> dict[str, str]:
    """What learner and workers find in their environment, beside what was there."""
    return {
        "VOLLEY_TOKEN": token,
        "OMP_NUM_THREADS": str(settings.devices.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }


def engine_of(named: str) -> str:
    """The engine itself; for `auto` vllm where it is installed, else transformers."""
    if named != "auto":
        return named
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"
