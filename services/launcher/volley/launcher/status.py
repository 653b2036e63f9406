"""`volley status`: one run at a glance, as a table or as the learner's own JSON."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from volley.launcher.progress import number
from volley.learner.secret_file import given_secret
from volley.rollout.settings import check_learner_url, read_token
from volley.schemas.status import EvaluationReport, HealthLevel, StatusReport, WorkerReport
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.learner_client import (
    LearnerClient,
    LearnerIncompatible,
    LearnerRefused,
    LearnerUnavailable,
)

WATCH_INTERVAL_S = 1.0
ROOT_LENGTH = 12
HEALTH_STYLES = {
    HealthLevel.OK: "green",
    HealthLevel.WARNING: "yellow",
    HealthLevel.CRITICAL: "bold red",
}
WORKER_COLUMNS = ("worker", "host", "engine", "version", "tokens/s", "groups", "leases", "idle")


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach a learner."""

    url: str
    token: str


class _Server(msgspec.Struct):
    """server.json of a run folder."""

    url: str


def find_learner(url: str | None, runs: Path) -> Address:
    """The learner at `url`, or that of the newest folder in `runs`; raises Stop without either."""
    return _find(url, runs, "token", read_token)


def find_commander(url: str | None, runs: Path) -> Address:
    """The same with the token that commands take."""
    return _find(url, runs, "admin_token", _read_admin_token)


def _find(url: str | None, runs: Path, token_file: str, read: Callable[[], str]) -> Address:
    known = _known_learners(runs, token_file)
    if url is not None:
        check_learner_url(url)
        same = [address for address in known if address.url == url.rstrip("/")]
        return same[0] if same else Address(url, read())
    if not known:
        raise Stop(
            ExitCode.CONFIG,
            f"no run in {runs.resolve()}: give the learner's URL, or go to the folder where the "
            "run was started",
        )
    return known[0]


def show_status(address: Address, *, watch: bool, as_json: bool) -> None:
    """Print the status once, or every second until the run is over or Ctrl-C."""
    console = Console()
    client = LearnerClient(address.url, address.token)
    with closing(client), suppress(KeyboardInterrupt):
        if as_json:
            _print_json(client, watch=watch)
        elif watch:
            _watch(client, console)
        else:
            console.print(render(ask(client)))


def ask(client: LearnerClient) -> StatusReport:
    """The learner's report; raises Stop with what to do."""
    with translating():
        return client.status()


@contextmanager
def translating() -> Iterator[None]:
    """Turn what the learner did not do into a Stop with what to do."""
    try:
        yield
    except LearnerUnavailable as error:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"{error}: the run is over, or the learner listens somewhere else; "
            "give the URL that it printed, or see the run folder's summary.json and logs/",
        ) from error
    except (LearnerRefused, LearnerIncompatible) as error:
        raise Stop(ExitCode.CONFIG, str(error)) from error


def render(report: StatusReport) -> RenderableType:
    """The report for a person."""
    return Group(_run_table(report), "", _worker_table(report))


def _print_json(client: LearnerClient, *, watch: bool) -> None:
    while True:
        sys.stdout.write(msgspec.json.encode(ask(client)).decode() + "\n")
        sys.stdout.flush()
        if not watch:
            return
        time.sleep(WATCH_INTERVAL_S)


def _watch(client: LearnerClient, console: Console) -> None:
    with Live(render(ask(client)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            live.update(render(ask(client)), refresh=True)


def _read_admin_token() -> str:
    token = given_secret("VOLLEY_ADMIN_TOKEN")
    if token is None:
        raise Stop(
            ExitCode.CONFIG,
            "set VOLLEY_ADMIN_TOKEN (or VOLLEY_ADMIN_TOKEN_FILE) to the admin token of the "
            "learner, which is in its run folder",
        )
    return token


def _known_learners(runs: Path, token_file: str) -> list[Address]:
    """Of all run folders that hold an address and a token, newest first."""
    found = []
    for path in runs.glob("*/server.json"):
        token = path.with_name(token_file)
        if token.exists():
            server = msgspec.json.decode(path.read_bytes(), type=_Server)
            found.append((path.stat().st_mtime, Address(server.url, token.read_text().strip())))
    return [address for _, address in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _run_table(report: StatusReport) -> Table:
    ledger, deliveries, queue = report.ledger, report.deliveries, report.queue
    table = Table.grid(padding=(0, 2))
    table.add_row("run", report.run, style="bold")
    health = report.health
    table.add_row("health", Text(health.sentence, style=HEALTH_STYLES[health.level]))
    for problem in health.problems:
        table.add_row("", Text(f"{problem.message}: {problem.fix}"))
    table.add_row(
        "state",
        f"{report.state}, up {report.uptime_s:.0f} s, Redis {report.redis}, disk {report.disk}",
    )
    if report.cold_start:
        # Nothing is issued or queued before it is over.
        table.add_row("cold start", report.cold_start)
        return table
    if report.replay:
        table.add_row("replay", report.replay)
    table.add_row(
        "step",
        f"{report.version.step} of {report.steps} "
        f"(epoch {report.version.epoch}, root {report.root[:ROOT_LENGTH]})",
    )
    table.add_row(
        "last step",
        f"reward {number(report, 'reward_mean')}  kl {number(report, 'kl', 4)}  "
        f"staleness {number(report, 'staleness_mean', 1)}  "
        f"samples/s {number(report, 'samples_per_s', 0)}",
    )
    table.add_row(
        "ledger",
        f"{ledger.issued} issued = {ledger.open} open + {ledger.trained} trained + "
        f"{ledger.filtered} filtered + {ledger.refused} refused + {ledger.skipped} skipped",
    )
    if report.evaluation:
        table.add_row("evaluation", _evaluated(report.evaluation))
    retried = ", ".join(f"{reason} {count}" for reason, count in deliveries.retried.items())
    table.add_row(
        "deliveries",
        f"{deliveries.duplicate} duplicate, {deliveries.invalid} invalid, "
        f"{deliveries.stale} stale, {deliveries.failed} failed; retried: {retried or 'none'}",
    )
    table.add_row(
        "queue",
        "Redis is away"
        if queue is None
        else f"{queue.outstanding} of {report.places} places taken, "
        f"{queue.tasks} tasks, {queue.results} results",
    )
    return table


def _evaluated(evaluation: EvaluationReport) -> str:
    scores = evaluation.metrics
    names = ("reward", "reward_greedy", *(name for name in scores if name.startswith("pass@")))
    values = [(name, scores[name]) for name in names]
    shown = "  ".join(f"{name} {value:.3f}" for name, value in values if value is not None)
    answered = f"{scores['num_answered']:.0f} of {scores['num_prompts']:.0f} prompts"
    return f"step {evaluation.version.step}: {shown}  ({answered})"


def _worker_table(report: StatusReport) -> RenderableType:
    if not report.workers:
        return "no worker reports: volley rollout --learner URL starts one"
    table = Table(*WORKER_COLUMNS, box=None, pad_edge=False)
    for worker in report.workers:
        table.add_row(*_worker_row(worker))
    return table


def _worker_row(worker: WorkerReport) -> tuple[str, ...]:
    return (
        worker.worker[:8],
        f"{worker.host}:{worker.pid}",
        f"{worker.engine} on {worker.device}",
        str(worker.version or "none yet"),
        f"{worker.tokens_per_s:.0f}",
        str(worker.num_groups),
        str(len(worker.leases)),
        f"{worker.last_progress_s:.1f} s",
    )
