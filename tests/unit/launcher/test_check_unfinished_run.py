from pathlib import Path

import msgspec

from tests.tiny_models import save_tiny_qwen3
from volley.launcher.check_inputs import read_files, read_inputs
from volley.launcher.check_notes import Notes
from volley.launcher.findings import Finding, Level
from volley.learner.identity import identity_of
from volley.learner.policy import Policy
from volley.learner.settings import Settings
from volley.learner.weight_store import root_of_tensors


def make_settings(folder: Path, num_generations: int = 2) -> Settings:
    return Settings.model_validate(
        {
            "run": {"name": "sums", "folder": folder / "runs"},
            "model": {"path": str(folder / "model"), "dtype": "float32"},
            "data": {"train": folder / "train.jsonl"},
            "sampling": {"num_generations": num_generations, "max_completion_length": 8},
        }
    )


def begin_run(settings: Settings) -> Path:
    """A run folder as a learner leaves it that was stopped."""
    policy = Policy.load(settings.model, "cpu")
    root = root_of_tensors(policy.published_tensors())
    files = read_files(settings, Path(), Notes())
    identity = identity_of(settings, "sums-20260101-120000", root, files.rewards, None)
    folder = settings.run.folder / identity.run
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(msgspec.json.encode(identity))
    return folder


def look(settings: Settings) -> list[Finding]:
    """About the run folder."""
    notes = Notes()
    read_inputs(settings, read_files(settings, Path(), notes), notes)
    return [finding for finding in notes.findings if finding.subject == "run folder"]


def test_an_unfinished_run_is_told_of_and_whether_it_would_go_on(tmp_path):
    save_tiny_qwen3(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"prompt": "sort ba=", "answer": "ab"}')
    settings = make_settings(tmp_path)
    assert look(settings) == []
    folder = begin_run(settings)
    [goes_on] = look(settings)
    assert goes_on.level is Level.OK
    assert str(folder) in goes_on.found
    (folder / "diverged.json").write_text('{"reason": "the loss is nan"}')
    [diverged] = look(settings)
    assert diverged.level is Level.WARN
    assert "stopped before: the loss is nan" in diverged.found
    assert "--continue" in str(diverged.advice)
    [changed] = look(make_settings(tmp_path, num_generations=4))
    assert changed.level is Level.BAD
    assert "sampling.num_generations is 4" in changed.found
    assert "--fresh" in changed.found
