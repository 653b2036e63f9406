"""The folder of a run: what a learner leaves on disk, and who may write there.

runs/<name>-<UTC time>/
    config.toml     the resolved settings, secrets masked
    server.json     where the learner listens
    token           the bearer token, readable by its owner alone
    metrics.jsonl   one object a step
    summary.json    what came of the run
    weights/        published blobs
    model/          the trained model, a Hugging Face folder
    logs/           one file a process
"""

import json
import os
import tempfile
import time
from pathlib import Path

import tomli_w

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


class RunFolder:
    """One run's folder, claimed for this process."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        try:
            self.weights.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"run folder {path}: {error.strerror}: choose another with run.folder",
            ) from error
        if self.metrics.exists():
            raise Stop(
                ExitCode.CONFIG,
                f"run folder {path} holds an earlier run, and a stopped run cannot be resumed "
                "yet: start another one (leave --run-folder out)",
            )

    @property
    def run(self) -> str:
        """The run's id: the folder's name."""
        return self.path.name

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def write_config(self, settings: Settings) -> None:
        """Keep the resolved settings beside what they led to."""
        tree = settings.model_dump(mode="json", exclude_none=True)
        if "redis_url" in tree["queue"]:
            tree["queue"]["redis_url"] = "masked"
        self._replace("config.toml", tomli_w.dumps(tree).encode())

    def write_server(self, url: str, token: str) -> None:
        """Let `volley status` find the learner."""
        self._replace("token", token.encode(), mode=0o600)
        self.write_json("server.json", {"url": url, "pid": os.getpid()})

    def write_json(self, name: str, content: dict[str, object]) -> None:
        """Replace a JSON file in one move, so that nobody reads half of it."""
        self._replace(name, json.dumps(content, indent=2).encode() + b"\n")

    def append_metrics(self, line: dict[str, object]) -> None:
        """Add one step to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _replace(self, name: str, content: bytes, mode: int = 0o644) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(mode)
        Path(temporary).replace(self.path / name)
