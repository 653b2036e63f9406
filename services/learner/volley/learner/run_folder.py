"""The folder of a run: what a learner leaves on disk, and who may write there.

runs/<name>-<UTC time>/
    run.json        what never changes over the run's life; with it the folder has state
    epoch           of the last learner that worked here
    lock            held by the learner that works here
    config.toml     the resolved settings, secrets masked
    configs/        every config that steps were taken under, by hash
    server.json     where the learner listens
    token           to join and to look, readable by its owner alone
    admin_token     to command as well, the same
    metrics.jsonl   one object a step
    evaluations.jsonl   one object a version that was evaluated
    summary.json    what came of the run
    diverged.json   why a run stopped that must not go on by itself
    trajectories/   the step log
    cold_start/     the model that GRPO begins with, where it is fine-tuned first: cold_start.py
    dead/           prompt numbers and messages that were given up
    tracking/       how far each tracker was told: trackers.py
    tensorboard/, wandb/    what these two keep here
    checkpoints/    snapshots to resume from
    weights/        published blobs
    model/          the trained model, a Hugging Face folder
    logs/           one file a process
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from volley.learner.folder_lock import lock_folder
from volley.learner.settings import RunSettings, Settings
from volley.telemetry.stops import ExitCode, Stop


def new_run_folder(run: RunSettings) -> Path:
    """The path of a folder that does not exist yet: `<run.folder>/<run.name>-<UTC time>`."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    first = run.folder.resolve() / f"{run.name}-{stamp}"
    path, suffix = first, 1
    while path.exists():
        suffix += 1
        path = first.with_name(f"{first.name}-{suffix}")
    return path


def find_run_folder(run: RunSettings, *, fresh: bool) -> Path:
    """The newest unfinished run of this name, else (or if `fresh`) a folder that does not exist."""
    folders = sorted(
        (path for path in run.folder.resolve().glob(f"{run.name}-[0-9]*") if _is_begun(path)),
        key=lambda folder: folder.name,
    )
    if fresh or not folders or is_finished(folders[-1]):
        return new_run_folder(run)
    return folders[-1]


def is_finished(folder: Path) -> bool:
    """Whether the run of this folder has taken all its steps."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("state") == "finished"


def divergence_of(folder: Path) -> str | None:
    """Why the run stopped and must not go on by itself, if it did."""
    path = folder / "diverged.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["reason"]) if path.exists() else None


@contextmanager
def explaining_run_folder(path: Path) -> Iterator[None]:
    """Raise Stop for a folder in which nothing can be written."""
    try:
        yield
    except OSError as error:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"run folder {path}: {error.strerror}: choose another with run.folder or "
            "--run-folder, or make this one writable",
        ) from error


def _is_begun(folder: Path) -> bool:
    return (folder / "run.json").exists() or (folder / "cold_start" / "cold_start.json").exists()


def after_cold_start(settings: Settings, run_folder: Path) -> Settings:
    """The settings with the model that GRPO begins with: of the cold start, if the run has one."""
    if settings.cold_start is None:
        return settings
    path = str((run_folder / "cold_start" / "model").resolve())
    model = settings.model.model_copy(update={"path": path, "revision": None})
    return settings.model_copy(update={"model": model})


def masked(settings: Settings) -> dict[str, object]:
    """All settings as TOML has them, without secrets."""
    tree = settings.model_dump(mode="json", exclude_none=True)
    if "redis_url" in tree["queue"]:
        tree["queue"]["redis_url"] = "masked"
    return tree


class RunFolder:
    """One run's folder, locked for this process as long as it lives."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        with explaining_run_folder(path):
            for folder in (self.weights, self.trajectories, self.checkpoints, self._configs):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path, "start another run with --fresh")

    @property
    def run(self) -> str:
        """The run's id: the folder's name when the run began."""
        return str(self.read_json("run.json")["run"]) if self.has_state else self.path.name

    @property
    def has_state(self) -> bool:
        """A run was begun here, so that it is resumed."""
        return (self.path / "run.json").exists()

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def trajectories(self) -> Path:
        return self.path / "trajectories"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def cold_start(self) -> Path:
        return self.path / "cold_start"

    @property
    def dead(self) -> Path:
        return self.path / "dead"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def _configs(self) -> Path:
        return self.path / "configs"

    def close(self) -> None:
        """Let another learner work here."""
        self._lock.close()

    def epoch(self) -> int:
        """Of the last learner that worked here; 0 before the first."""
        path = self.path / "epoch"
        return int(path.read_text(encoding="ascii")) if path.exists() else 0

    def enter_epoch(self, epoch: int) -> None:
        """Put an epoch on the disk, before anybody hears of it."""
        self._replace("epoch", f"{epoch}\n".encode())

    def remember_divergence(self, reason: str) -> None:
        """Let no learner go on here before a person has looked."""
        self.write_json("diverged.json", {"reason": reason})

    def forget_divergence(self) -> None:
        """A person has looked."""
        (self.path / "diverged.json").unlink(missing_ok=True)

    def write_config(self, settings: Settings, config_hash: str) -> None:
        """Keep the resolved settings beside what they led to."""
        content = tomli_w.dumps(masked(settings)).encode()
        self._replace("config.toml", content)
        self._replace(f"configs/{config_hash}.toml", content)

    def config(self, config_hash: str) -> Path:
        """The settings that had this hash."""
        return self._configs / f"{config_hash}.toml"

    def forget_summary(self) -> None:
        """The run goes on, so that what came of it is not known any more."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def write_server(self, url: str, token: str, admin_token: str) -> None:
        """Let `volley status`, `volley pause` and the like find the learner."""
        self._replace("token", token.encode(), mode=0o600)
        self._replace("admin_token", admin_token.encode(), mode=0o600)
        self.write_json("server.json", {"url": url, "pid": os.getpid()})

    def read_json(self, name: str) -> dict[str, object]:
        """A JSON file of this folder."""
        content = json.loads((self.path / name).read_text(encoding="utf-8"))
        assert isinstance(content, dict), f"{name} is an object"
        return content

    def write_json(self, name: str, content: dict[str, object]) -> None:
        """Replace a JSON file in one move, so that nobody reads half of it."""
        self._replace(name, json.dumps(content, indent=2).encode() + b"\n")

    def _replace(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Replace a file, whole and on the disk, or leave it alone."""
        path = self.path / name
        # Always the same name: what a process that died left there, the next one writes over.
        temporary = path.with_name(f".{path.name}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
