"""One run of the sort demo in which learner, workers and Redis are killed again and again.

    python -m tests.fault.soak --kills 200 --seed 1

Learner and workers die at failpoints of their own, drawn anew at every start, and by SIGKILL; Redis
is killed, and now and then loses all it had. Kills come when steps have been taken, not when a
clock says so. Then the run is finished in peace, audited from its very start and replayed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Annotated, Self

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from tests.processes import TOKEN, learner_url
from tests.waiting import wait_until
from volley.launcher.parent_death import die_with_parent
from volley.launcher.redis_server import RedisServer
from volley.learner.audit import audit
from volley.learner.past_run import open_run
from volley.learner.retake import Retake
from volley.transport.redis_stream import connect

NUM_WORKERS = 2
LEARNER_DEATH = 0.015
"""At each of the ten or so failpoints that a step comes by."""
WORKER_DEATH = 0.002
STEPS_PER_KILL = (2, 6)
"""Between two kills from outside."""
LAST_STEPS = 10
"""In peace, at the end."""
DEADLINE_S = 300.0
"""For anything to happen at all, on a machine that does other things too."""
ENDLESS = 1_000_000
SETTINGS = (
    *("optim.lr_scheduler_type=constant", "queue.lease_s=3", "checkpoint.every_steps=7"),
    *("checkpoint.keep_all_steps=true", "checkpoint.min_free_bytes=0", "weights.keep=4"),
)

Process = subprocess.Popen[bytes]

console = Console(highlight=False)


class Soak:
    """The processes of the run and who is killed next; leaving it ends them all."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.killed: Counter[str] = Counter()
        self.run_folder = folder / "run"
        self._folder = folder
        self._kills = kills
        self._dice = random.Random(seed)
        self._redis = RedisServer(folder / "redis")
        self._faults: dict[Callable[[], None], float] = {
            self._kill_learner: 0.25,
            self._kill_worker: 0.25,
            self._kill_redis: 0.3,
            self._flush_redis: 0.1,
            self._empty_redis: 0.1,
        }
        self._next_fault_at = STEPS_PER_KILL[1]
        self._steps = ENDLESS

    def __enter__(self) -> Self:
        self._redis.start()
        self._learner = self._start_learner()
        wait_until((self.run_folder / "server.json").exists, DEADLINE_S)
        self._workers = [self._start_worker() for _ in range(NUM_WORKERS)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in (self._learner, *self._workers):
            process.kill()
            process.wait()
        self._redis.stop()

    @property
    def num_steps(self) -> int:
        """Taken and concluded, refused ones too."""
        return sum(1 for _ in (self.run_folder / "trajectories").glob("*.outcome"))

    @property
    def is_over(self) -> bool:
        """Whether all that are to be killed have been."""
        return self.killed.total() >= self._kills

    def kill(self) -> None:
        """Kill until it is over, and start again what died."""
        while not self.is_over:
            wait_until(partial(self._has_moved, self.num_steps, self.killed.total()), DEADLINE_S)
            if self.num_steps >= self._next_fault_at:
                fault, *_ = self._dice.choices([*self._faults], [*self._faults.values()])
                self._next_fault_at = self.num_steps + self._dice.randint(*STEPS_PER_KILL)
                fault()

    def finish(self) -> None:
        """Some more steps in peace; returns when learner and workers have ended by themselves."""
        for process in (self._learner, *self._workers):
            process.send_signal(signal.SIGTERM)
        for process in (self._learner, *self._workers):
            # A failpoint of theirs may have been quicker, and a young one does not listen yet.
            code = process.wait(DEADLINE_S)
            self._check(code in (0, -signal.SIGKILL, -signal.SIGTERM), f"ended with {code}")
        self._steps = _newest_step(self.run_folder) + LAST_STEPS
        self._learner = self._start_learner()
        self._workers = [self._start_worker() for _ in range(NUM_WORKERS)]
        for process in (self._learner, *self._workers):
            self._check(process.wait(2 * DEADLINE_S) == 0, "did not finish")

    def _has_moved(self, num_steps: int, num_killed: int) -> bool:
        self._replace_dead()
        return self.num_steps > num_steps or self.killed.total() > num_killed

    def _replace_dead(self) -> None:
        if self._has_died(self._learner):
            self._count("learner, at a failpoint")
            self._learner = self._start_learner()
        for place, worker in enumerate(self._workers):
            if self._has_died(worker):
                self._count("worker, at a failpoint")
                self._workers[place] = self._start_worker()

    def _has_died(self, process: Process) -> bool:
        code = process.poll()
        self._check(code in (None, -signal.SIGKILL), f"ended with {code}")
        return code is not None

    def _check(self, is_fine: bool, what: str) -> None:
        if not is_fine:
            logs = " and ".join(str(self._folder / name) for name in ("learner.log", "worker.log"))
            raise SystemExit(f"a process {what}: see {logs}")

    def _count(self, what: str) -> None:
        self.killed[what] += 1
        step, total = _newest_step(self.run_folder), self.killed.total()
        console.print(f"step {step:5d}  kill {total:4d} of {self._kills}  {what}")

    def _kill_learner(self) -> None:
        self._learner.kill()
        self._learner.wait()
        self._count("learner, SIGKILL")
        self._learner = self._start_learner()

    def _kill_worker(self) -> None:
        place = self._dice.randrange(NUM_WORKERS)
        self._workers[place].kill()
        self._workers[place].wait()
        self._count("worker, SIGKILL")
        self._workers[place] = self._start_worker()

    def _kill_redis(self) -> None:
        self._redis.kill()
        self._count("Redis, SIGKILL")
        self._redis.start()

    def _flush_redis(self) -> None:
        with connect(self._redis.url) as client:
            client.flushall()
        self._count("Redis, FLUSHALL")

    def _empty_redis(self) -> None:
        self._redis.kill()
        for file in (self._folder / "redis").rglob("*.aof"):
            file.unlink()
        for file in (self._folder / "redis").rglob("*.manifest"):
            file.unlink()
        self._count("Redis, its files gone")
        self._redis.start()

    def _start_learner(self) -> Process:
        settings = [*SETTINGS, f"run.steps={self._steps}"]
        has_listened = (self.run_folder / "server.json").exists()
        if has_listened:
            # Workers look for it where it was.
            settings.append(f"server.port={learner_url(self.run_folder).rpartition(':')[2]}")
        return self._start(
            "volley.learner",
            *(str(self._folder / "task" / "config.toml"), "--run-folder", str(self.run_folder)),
            *(part for setting in settings for part in ("--set", setting)),
            death=LEARNER_DEATH if has_listened else 0.0,
        )

    def _start_worker(self) -> Process:
        url = learner_url(self.run_folder)
        options = ("--learner", url, "--device", "cpu", "--engine", "transformers")
        return self._start("volley.rollout", *options, death=WORKER_DEATH)

    def _start(self, module: str, *arguments: str, death: float) -> Process:
        log = self._folder / ("learner.log" if module == "volley.learner" else "worker.log")
        failpoint = (
            "" if self.is_over or not death else f"random@{death}/{self._dice.randrange(2**31)}"
        )
        own = {"VOLLEY_TOKEN": TOKEN, "VOLLEY_REDIS_URL": self._redis.url}
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=output,
                env={**os.environ, **own, "VOLLEY_FAILPOINT": failpoint},
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, takes no lock
            )


def soak(
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill in all.")] = 20,
    seed: Annotated[int, typer.Option(help="Of who is killed when.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Kept; left out: one in /tmp.")] = None,
) -> None:
    """Kill learner, workers and Redis in one run of the sort demo, then audit it."""
    began_s = time.monotonic()
    folder = folder or Path(mkdtemp(prefix="volley-soak-"))
    console.print(f"everything is in {folder}; now the demo's task and its cold start")
    task = (sys.executable, "-m", "volley.learner.sort_task", str(folder / "task"))
    subprocess.run([*task, "--engine", "transformers"], check=True, stderr=subprocess.DEVNULL)
    with Soak(folder, kills, seed) as run:
        run.kill()
        run.finish()
    console.print("the run is over; now its audit, and its replay from the first step")
    is_kept = _report(run, folder, time.monotonic() - began_s)
    raise typer.Exit(0 if is_kept else 1)


def _report(run: Soak, folder: Path, duration_s: float) -> bool:
    """A table of what happened and of what the run folder says of it."""
    summary = json.loads((run.run_folder / "summary.json").read_text())
    with open_run(run.run_folder) as past:
        findings = audit(past, past.oldest_kept(from_start=True))
        retaken = [one for one in Retake(past, 1, None, ()).steps() if one is not None]
        retried = past.log.read(past.log.places()[-1]).ledger.retried
    replayed_root = retaken[-1].line.root
    is_same = replayed_root == summary["final_root"] and all(one.is_same for one in retaken)
    ledger = summary["ledger"]
    # The audit knows the sums up to the last logged step, not those after it.
    do_sums_meet = 2 * ledger["issued"] == sum(ledger.values())
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for what, number in sorted(run.killed.items()):
        table.add_row(what, str(number))
    table.add_section()
    table.add_row("killed in all", str(run.killed.total()))
    table.add_row("starts of the learner", str(summary["final_epoch"]))
    table.add_row("steps applied", str(summary["steps"]))
    table.add_row("minutes", f"{duration_s / 60:.0f}")
    table.add_row("prompt numbers", _listed(ledger))
    table.add_row("their sum", "the same" if do_sums_meet else "ANOTHER")
    table.add_row("tried again", _listed(retried))
    for finding in findings:
        found = "; ".join(finding.faults[:5]) or "ok"
        table.add_row(f"audit: {finding.check}", f"{found} ({finding.looked_at})")
    table.add_row("final root", summary["final_root"][:16])
    table.add_row("replayed", f"{replayed_root[:16]} ({'the same' if is_same else 'ANOTHER'})")
    table.add_row("held-out prompts sorted", _evaluate(folder))
    console.print(table)
    return is_same and do_sums_meet and not any(finding.faults for finding in findings)


def _evaluate(folder: Path) -> str:
    """Before and after, sampled at temperature 1: killed or not, it is to learn."""
    shares = []
    for model in (folder / "task" / "start", folder / "run" / "model"):
        command = [
            *(sys.executable, "-m", "volley.launcher", "evaluate"),
            *(str(folder / "task" / "config.toml"), str(folder / "task" / "held_out.jsonl")),
            *("--model", str(model), "--num-generations", "1", "--json"),
            *("--set", "devices.engine=transformers"),
        ]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        shares.append(json.loads(told)["metrics"]["reward"])
    return f"{shares[0]:.3f} before, {shares[1]:.3f} after"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items()) or "none"


def _newest_step(run_folder: Path) -> int:
    names = (path.name for path in (run_folder / "trajectories").glob("*.outcome"))
    return max((int(name.split("-")[1]) for name in names), default=0)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(soak)
    app()
