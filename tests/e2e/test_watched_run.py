"""A run that all watchers watch: trackers, Prometheus with dashboard and alerts, and its logs.

It is killed in its midst and goes on, once for all tests of this file.
"""

import json
import re
import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from tests.processes import CONFIG, TOKEN, learner, metrics, worker, write_run
from tests.prometheus import DEPLOYED, Prometheus, Rule, find_program, prometheus
from tests.waiting import wait_until
from volley.launcher.redis_server import RedisServer

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

DASHBOARD = DEPLOYED.parent / "grafana" / "dashboards" / "volley.json"
STEPS_BEFORE_THE_KILL = 15
STEPS_AFTER_IT = 3

WANDB_BLOCK_BYTES = 2**15
WANDB_HEADER_BYTES = 7
"""Of the file, and of each chunk."""
WANDB_LAST_CHUNKS = (1, 4)
"""Kinds of chunks that end a record: it is whole, or its last one."""

WATCHED = (
    CONFIG.replace("steps = 3", "steps = 1000")
    + """
[evaluation]
data = "held_out.jsonl"
eval_steps = 2
[logging]
format = "json"
[tracking]
report_to = ["tensorboard", "wandb", "trackio"]
"""
)

# One prompt is always refused, in words that quote it, and all are printed.
TALKATIVE_REWARDS = """
def variety(prompts, completions, **columns):
    print(prompts[0], completions)
    if "ae" in prompts[0]:
        raise ValueError(f"cannot judge {prompts[0]}")
    return [float(len(set(text))) for text in completions]
"""
PROMPT = re.compile(r"sort [a-d][e-h]=>")

SELECTOR = re.compile(r"\b((?:volley|process)_\w+|up)\b(\{[^}]*\})?")
NOT_WHEN_ALL_IS_WELL = re.compile("volley_problem|retried_")


@dataclass
class Watched:
    """What is left of the run, and what Prometheus said while it went on."""

    folder: Path
    password: str
    expressions: list[str]
    selected: dict[str, int]
    """Series of every selector in them."""
    rules: list[Rule]


@pytest.fixture(scope="module")
def watched(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    find_program("prometheus")
    folder = tmp_path_factory.mktemp("watched")
    config = write_run(folder, WATCHED, TALKATIVE_REWARDS)
    rows = [{"prompt": f"sort {letters}=>"} for letters in ("dg", "ae")]
    (folder / "held_out.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch, RedisServer(folder / "redis") as redis:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        told = run_and_kill(config, redis.url)
        yield Watched(folder, str(urlsplit(redis.url).password), *told)


def run_and_kill(config: Path, redis_url: str) -> tuple[list[str], dict[str, int], list[Rule]]:
    """Train, watch, kill the learner, train to the end; what Prometheus said."""
    with learner(config, redis_url) as (process, client, run):
        options = ("--metrics-port", "0", "--log-format", "json")
        with worker(run, "worker", *options) as serving:
            probes = wait_until(lambda: probes_url(serving.log), 60.0)
            targets = {"volley-learner": client.url, "volley-rollout": probes}
            addresses = {job: urlsplit(url).netloc for job, url in targets.items()}
            with prometheus(config.parent / "prometheus", TOKEN, addresses) as server:
                wait_until(lambda: len(finished_steps(run)) >= STEPS_BEFORE_THE_KILL, 60.0)
                wait_until((run / "evaluations.jsonl").exists, 60.0)
                told = ask_everything(server)
            process.process.kill()
            process.process.wait()
            last = len(finished_steps(run)) + STEPS_AFTER_IT
            port = urlsplit(client.url).port
            changes = ("--set", f"server.port={port}", "--set", f"run.steps={last}")
            with learner(config, redis_url, *changes) as (again, _, _):
                assert again.process.wait(60.0) == 0, again.log.read_text()
            assert serving.process.wait(30.0) == 0
    return told


def probes_url(log: Path) -> str | None:
    """Where a worker answers Prometheus, as it logs."""
    found = re.search(r'"listening for probes","url":"([^"]+)"', log.read_text())
    return found[1] if found else None


def finished_steps(run: Path) -> list[dict[str, float]]:
    return metrics(run) if (run / "metrics.jsonl").exists() else []


def ask_everything(server: Prometheus) -> tuple[list[str], dict[str, int], list[Rule]]:
    """Every expression of dashboard and alerts, their selectors, and the rules as evaluated."""
    wait_until(lambda: server.num_series("changes(volley_uptime_seconds[1m]) > 1") == 1)
    wait_until(lambda: server.num_series("up == 1") == 2)
    expressions = dashboard_expressions(json.loads(DASHBOARD.read_text()))
    wait_until(lambda: all(rule.health == "ok" for rule in server.rules()))
    expressions += [rule.expression for rule in server.rules()]
    for expression in expressions:
        server.num_series(expression)
    selectors = {match[0] for one in expressions for match in SELECTOR.finditer(one)}
    return expressions, {one: server.num_series(one) for one in selectors}, server.rules()


def dashboard_expressions(part: object) -> list[str]:
    """Of any part of the dashboard, with its variables filled in."""
    if isinstance(part, Mapping):
        own = [part["expr"]] if "expr" in part else []
        found = own + dashboard_expressions(list(part.values()))
    elif isinstance(part, Sequence) and not isinstance(part, str):
        found = [one for inner in part for one in dashboard_expressions(inner)]
    else:
        return []
    filled = {"$learner": ".*", "$__rate_interval": "1m"}
    for name, value in filled.items():
        found = [one.replace(name, value) for one in found]
    return found


def test_every_expression_of_dashboard_and_alerts_asks_for_what_there_is(watched):
    assert len(watched.expressions) > 70
    (step, *_) = metrics(watched.folder / "run")
    evaluation = json.loads(
        (watched.folder / "run" / "evaluations.jsonl").read_text().split("\n")[0]
    )
    known = {*step, *evaluation}
    missing = []
    for selector, num_series in watched.selected.items():
        key = re.search(r'metric="([^"]+)"', selector)
        is_there = key[1] in known if key else num_series > 0
        if not is_there and not NOT_WHEN_ALL_IS_WELL.search(selector):
            missing.append(selector)
    assert missing == []


def test_the_alerts_are_evaluated_and_none_that_is_critical_is_raised(watched):
    assert {rule.name for rule in watched.rules} >= {"VolleyLearnerDown", "VolleyNoSignal"}
    raised = {rule.severity for rule in watched.rules if rule.state == "firing"}
    assert "critical" not in raised


def test_tensorboard_has_each_step_once(watched):
    run = watched.folder / "run"
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("train/reward_mean")]
    lines = [(line["step"], pytest.approx(line["reward_mean"])) for line in metrics(run)]
    assert told == lines
    assert events.Scalars("evaluation/reward")[0].step == 0


def test_wandb_goes_on_behind_the_last_step_that_was_told(watched):
    files = sorted((watched.folder / "run" / "wandb").glob("offline-run-*/run-run.wandb"))
    before, after = map(wandb_steps, files)
    last = len(metrics(watched.folder / "run"))
    assert before == list(range(1, len(before) + 1))
    # It keeps its last block to itself, and has lost it with the learner.
    assert len(before) > 0
    assert last - STEPS_AFTER_IT >= len(before)
    assert after[-STEPS_AFTER_IT:] == list(range(last - STEPS_AFTER_IT + 1, last + 1))
    assert not set(before) & set(after)


def wandb_steps(file: Path) -> list[int]:
    """The steps in a file for `wandb sync`."""
    items = [list(record.history.item) for record in wandb_records(file.read_bytes())]
    rows = [{"/".join(one.nested_key) or one.key: one.value_json for one in row} for row in items]
    return [int(row["step"]) for row in rows if "train/loss" in row]


def wandb_records(content: bytes) -> Iterator[Record]:
    """What stands in wandb's file: records in chunks, chunks in blocks, as LevelDB has its log."""
    position, begun = WANDB_HEADER_BYTES, b""
    while position + WANDB_HEADER_BYTES <= len(content):
        left = WANDB_BLOCK_BYTES - position % WANDB_BLOCK_BYTES
        if left < WANDB_HEADER_BYTES:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += WANDB_HEADER_BYTES + length
        begun += content[position - length : position]
        if kind in WANDB_LAST_CHUNKS:
            yield Record.FromString(begun)
            begun = b""


def test_trackio_has_each_step_once(watched):
    (database,) = (watched.folder / "trackio").glob("*.db")
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select step, metrics from metrics order by id").fetchall()
    told = [step for step, values in rows if "train/loss" in json.loads(values)]
    steps = [int(line["step"]) for line in metrics(watched.folder / "run")]
    assert len(told) == len(set(told))
    # What was told in the half second before the learner was killed may be missing.
    assert told[0] == 1
    assert told[-STEPS_AFTER_IT:] == steps[-STEPS_AFTER_IT:]


def test_secrets_and_prompts_are_in_no_log_and_no_record(watched):
    run = watched.folder / "run"
    logs = [watched.folder / name for name in ("learner.log", "worker.log")]
    records = [run / name for name in ("config.toml", "metrics.jsonl", "summary.json", "run.json")]
    secrets = (TOKEN, (run / "admin_token").read_text(), watched.password)
    for path in [*logs, *records, *(run / "wandb").rglob("*.*")]:
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            assert [secret for secret in secrets if secret in text] == [], path
            assert not PROMPT.search(text), path
    assert "failed delivery" in logs[0].read_text()


def test_every_line_of_a_log_is_an_event_that_says_where_it_comes_from(watched):
    for name, role, where in (("learner", "learner", "step"), ("worker", "rollout", "worker")):
        lines = (watched.folder / f"{name}.log").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        assert {event["role"] for event in events} == {role}
        assert sum(where in event for event in events) > len(events) / 2
