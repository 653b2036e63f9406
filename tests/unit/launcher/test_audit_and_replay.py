"""`volley audit` and `volley replay` as a person sees them."""

import json
from contextlib import closing

import msgspec
import pytest
from typer.testing import CliRunner

from tests.solo_learner import SoloLearner, write_config
from tests.tiny_models import save_tiny_qwen3
from volley.launcher.__main__ import app
from volley.learner.run_folder import RunFolder
from volley.learner.sealed import write_sealed
from volley.learner.step_log import Place, StepLog


@pytest.fixture
def folder(tmp_path):
    """A run of three steps."""
    learner = SoloLearner(write_config(tmp_path, save_tiny_qwen3(tmp_path / "model")))
    for step in range(3):
        learner.take(2 * step, 2 * step + 1)
    learner.save()
    learner.die()
    return learner.folder.path


def volley(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def damage(folder) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    line = json.loads(lines[0]) | {"root": "0" * 64}
    (folder / "metrics.jsonl").write_text("\n".join([json.dumps(line), *lines[1:], ""]))


def test_an_audit_is_a_table_and_an_exit_code(folder):
    result = volley("audit", folder)
    assert result.exit_code == 0, result.output
    for check in ("sums", "once", "roots", "versions", "leftovers"):
        (line,) = [line for line in result.stdout.splitlines() if check in line]
        assert line.split()[-1] == "ok"


def test_a_broken_promise_is_said_and_has_an_exit_code_of_its_own(folder):
    damage(folder)
    result = volley("audit", folder)
    assert result.exit_code == 3
    assert "version 1.1 has 2 roots" in " ".join(result.stdout.split())
    assert "does not keep its promises" in " ".join(result.stdout.split())


def test_an_audit_for_machines_is_one_array(folder):
    damage(folder)
    result = volley("audit", folder, "--json")
    assert result.exit_code == 3
    findings = {finding["check"]: finding["faults"] for finding in json.loads(result.stdout)}
    assert findings["sums"] == []
    assert len(findings["versions"]) == 1


def test_a_replay_says_that_it_gave_the_recorded_weights(folder):
    result = volley("replay", folder)
    assert result.exit_code == 0, result.output
    assert "all 3 steps gave the recorded weights" in result.stdout
    assert "mean of 3 steps" in result.stdout
    (metrics,) = folder.glob("replay-*.jsonl")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [1, 2, 3]
    assert volley("audit", folder).exit_code == 0, "what a replay leaves is no leftover"


def test_a_replay_under_other_settings_compares(folder):
    result = volley("replay", folder, "--from", 2, "--set", "optim.learning_rate=1e-4")
    assert result.exit_code == 0, result.output
    assert "mean of 2 steps" in result.stdout
    assert "gave the recorded weights" not in result.stdout


def test_a_replay_that_gives_other_weights_has_an_exit_code_of_its_own(folder):
    outcome = folder / "trajectories" / "step-00000002-0.outcome"
    recorded = StepLog(folder / "trajectories").outcome(Place(2, 0))
    assert recorded is not None
    outcome.unlink()
    write_sealed(outcome, msgspec.json.encode(msgspec.structs.replace(recorded, root="f" * 64)))
    result = volley("replay", folder)
    assert result.exit_code == 3
    assert "1 of 3 steps gave other weights than recorded, the first one is step 2" in result.stdout


@pytest.mark.parametrize("verb", ["audit", "replay"])
def test_a_folder_that_a_learner_works_on_is_left_alone(folder, verb):
    with closing(RunFolder(folder)):
        result = volley(verb, folder)
    assert result.exit_code == 5
    assert "another learner" in result.output


def test_a_whole_run_that_is_not_kept_cannot_be_audited(tmp_path):
    config = write_config(tmp_path, save_tiny_qwen3(tmp_path / "model"))
    learner = SoloLearner(config, "checkpoint.keep_all_steps=false")
    for step in range(3):
        learner.take(2 * step, 2 * step + 1)
        learner.save()
    learner.die()
    result = volley("audit", learner.folder.path, "--from-start")
    assert result.exit_code == 2
    assert "up to 2 are gone" in result.output
    assert volley("audit", learner.folder.path).exit_code == 0


@pytest.mark.parametrize("verb", ["audit", "replay"])
def test_a_folder_that_is_no_run_is_named(tmp_path, verb):
    result = volley(verb, tmp_path)
    assert result.exit_code == 2
    assert "holds no run" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", 7), "--from 7: the log has steps 1 to 3"),
        (("--from", 3, "--to", 2), "--from 3 --to 2: the log has steps 1 to 3"),
        (("--set", "sampling.temperature=0.5"), "--set sampling.temperature: the groups were"),
        (("--set", "optim.learning_rat=1"), "did you mean optim.learning_rate?"),
        (("--set", "optim.learning_rate"), "write it as section.key=value"),
        (("--set", "optim.learning_rate=-1"), "optim.learning_rate = -1: should be greater than 0"),
    ],
)
def test_options_that_make_no_sense_are_said(folder, options, message):
    result = volley("replay", folder, *options)
    assert result.exit_code == 2
    assert "volley: error: " in result.output
    assert message in result.output
    assert not list(folder.glob("replay-*.jsonl"))


@pytest.mark.parametrize("option", ["--from", "--to"])
def test_no_step_is_taken_to_the_weights_that_a_run_begins_with(folder, option):
    result = volley("replay", folder, option, 0)
    assert result.exit_code == 2
    assert option in result.output
