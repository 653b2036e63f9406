import json
import signal
import subprocess
import sys

import pytest

from volley.learner.run_folder import RunFolder, find_run_folder
from volley.learner.settings import RunSettings
from volley.telemetry.stops import ExitCode, Stop

HOLD = """
import sys
from pathlib import Path
from volley.learner.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""

DIE_WRITING = """
import os
import signal
import sys
from pathlib import Path
from volley.learner.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
folder.enter_epoch(3)
"""


def begun(folder, name, state=None):
    """A run folder with state, and with a summary if `state` is given."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"run": name}))
    if state is not None:
        (path / "summary.json").write_text(json.dumps({"state": state}))
    return path


@pytest.fixture
def run(tmp_path):
    return RunSettings(name="sums", folder=tmp_path)


def test_the_newest_unfinished_run_is_gone_on_with(run, tmp_path):
    begun(tmp_path, "sums-20260101-000000")
    newest = begun(tmp_path, "sums-20260102-000000", state="stopped")
    begun(tmp_path, "others-20260103-000000")
    assert find_run_folder(run, fresh=False) == newest


def test_a_run_that_was_stopped_in_its_cold_start_is_gone_on_with(run, tmp_path):
    begun(tmp_path, "sums-20260101-000000", state="finished")
    newest = tmp_path / "sums-20260102-000000"
    (newest / "cold_start").mkdir(parents=True)
    (newest / "cold_start" / "cold_start.json").write_text("{}")
    assert find_run_folder(run, fresh=False) == newest


def test_a_finished_run_is_left_alone(run, tmp_path):
    begun(tmp_path, "sums-20260101-000000")
    begun(tmp_path, "sums-20260102-000000", state="finished")
    assert not find_run_folder(run, fresh=False).exists()


def test_fresh_begins_another_run(run, tmp_path):
    begun(tmp_path, "sums-20260101-000000")
    assert not find_run_folder(run, fresh=True).exists()


def test_a_folder_without_a_run_is_no_run(run, tmp_path):
    (tmp_path / "sums-20260101-000000").mkdir()
    assert not find_run_folder(run, fresh=False).exists()


def test_a_second_learner_is_turned_away_until_the_first_is_gone(tmp_path):
    path = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Stop, match=f"another learner \\(process {holder.pid}\\)") as stopped:
            RunFolder(path)
        assert stopped.value.code is ExitCode.ANOTHER_LEARNER
        holder.kill()
    RunFolder(path).close()


def test_a_copy_of_a_folder_is_still_the_same_run(tmp_path):
    begun(tmp_path, "sums-20260101-000000").rename(tmp_path / "copy")
    folder = RunFolder(tmp_path / "copy")
    assert folder.run == "sums-20260101-000000"
    folder.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Stop, match=r"file/run: Not a directory: choose another") as stopped:
        RunFolder(tmp_path / "file" / "run")
    assert stopped.value.code is ExitCode.ENVIRONMENT


def test_epochs_are_remembered(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.epoch() == 0
    folder.enter_epoch(3)
    folder.close()
    again = RunFolder(tmp_path / "run")
    assert again.epoch() == 3
    again.close()


def test_the_next_process_leaves_nothing_of_what_one_that_died_was_writing(tmp_path):
    path = tmp_path / "run"
    died = subprocess.run([sys.executable, "-c", DIE_WRITING, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(list(path.glob(".*"))) == 1
    folder = RunFolder(path)
    assert folder.epoch() == 0
    folder.enter_epoch(4)
    assert folder.epoch() == 4
    assert list(path.glob(".*")) == []
    folder.close()


def test_only_the_owner_reads_the_tokens(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_server("http://127.0.0.1:1", "secret", "more-secret")
    assert (folder.path / "admin_token").stat().st_mode & 0o777 == 0o600
    assert (folder.path / "token").stat().st_mode & 0o777 == 0o600
    assert (folder.path / "server.json").stat().st_mode & 0o777 == 0o644
    folder.close()
