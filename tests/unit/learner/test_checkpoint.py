import os
import signal
import subprocess
import sys

import msgspec
import pytest
import torch

from tests.checkpoints import make_state
from tests.full_disk import full_disk
from volley.learner.checkpoint import START, Checkpoints
from volley.learner.sealed import read_sealed, write_sealed
from volley.learner.step_log import Place
from volley.schemas.groups import SCHEMA_VERSION
from volley.telemetry.failpoints import VARIABLE
from volley.telemetry.stops import Stop

SAVE = """
import sys
from pathlib import Path
import msgspec, torch
from volley.learner.checkpoint import Checkpoints, CheckpointState

state = msgspec.json.decode(sys.argv[2], type=CheckpointState)
Checkpoints(Path(sys.argv[1]), keep=2).save(state, {"a": torch.ones(2)})
"""


def tensors(value: float = 0.5) -> dict[str, torch.Tensor]:
    return {"master.a": torch.full((2, 3), value), "step.a": torch.tensor(4.0)}


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_a_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


def append_a_byte(path):
    path.write_bytes(path.read_bytes() + b"\0")


def delete(path):
    path.unlink()


def steps(checkpoints: Checkpoints) -> list[int]:
    """Of the valid ones, newest first."""
    return [checkpoint.state.version.step for checkpoint in checkpoints.valid()]


def test_a_checkpoint_comes_back(tmp_path):
    saved = make_state(100)
    path = Checkpoints(tmp_path, keep=2).save(saved, tensors())
    (checkpoint,) = Checkpoints(tmp_path, keep=2).valid()
    assert checkpoint.path == path
    assert checkpoint.state == saved
    assert path.name == "step-00000100-0001"
    found = checkpoint.tensors()
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


def test_random_numbers_go_on_where_they_were(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(make_state(1), {})
    expected = torch.rand(4)
    rng_state = next(checkpoints.valid()).state.rng_state
    torch.set_rng_state(torch.frombuffer(bytearray(rng_state), dtype=torch.uint8))
    assert torch.equal(torch.rand(4), expected)


def test_the_newest_is_the_one_saved_last_even_of_an_earlier_step(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(make_state(100), {})
    checkpoints.save(make_state(60, epoch=2), {})
    assert steps(checkpoints) == [60, 100]


def test_the_same_step_saved_again_stands_beside_the_first(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(make_state(5), tensors())
    checkpoints.save(make_state(5, attempt=1), tensors())
    assert [one.state.place for one in checkpoints.valid()] == [Place(6, 1), Place(6, 0)]


@pytest.mark.parametrize("name", ["state.safetensors", "manifest"])
@pytest.mark.parametrize("damage", [flip_a_bit, cut_a_byte, append_a_byte, delete])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, caplog, damage, name):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(make_state(1), tensors())
    newest = checkpoints.save(make_state(2), tensors())
    damage(newest / name)
    assert steps(Checkpoints(tmp_path, keep=2)) == [1]
    (record,) = caplog.records
    assert record.getMessage() == "skipped a damaged checkpoint"
    assert record.__dict__["checkpoint"] == str(newest)
    assert name in record.__dict__["reason"]


def test_a_checkpoint_of_another_schema_is_not_skipped_as_damaged(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    manifest = checkpoints.save(make_state(1), {}) / "manifest"
    content = msgspec.json.decode(read_sealed(manifest))
    manifest.unlink()
    write_sealed(manifest, msgspec.json.encode(content | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(Stop, match="upgrade this build"):
        next(checkpoints.valid())


def test_the_newest_are_kept_and_the_log_from_the_oldest_of_them_on(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(make_state(step), {})
    assert checkpoints.prune() == Place(3, 0)
    assert steps(checkpoints) == [3, 2]


def test_one_checkpoint_alone_makes_no_log_needless(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(make_state(1), {})
    assert checkpoints.prune() == START


def test_only_those_known_to_be_whole_count_as_kept(tmp_path):
    earlier = Checkpoints(tmp_path, keep=2)
    earlier.save(make_state(1), tensors())
    flip_a_bit(earlier.save(make_state(2), tensors()) / "state.safetensors")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert steps(checkpoints) == [1]
    checkpoints.save(make_state(3), {})
    assert checkpoints.prune() == Place(2, 0)
    assert steps(checkpoints) == [3, 1]
    checkpoints.save(make_state(4), {})
    assert checkpoints.prune() == Place(4, 0)
    assert len(list(tmp_path.iterdir())) == 2, "the damaged one goes with those before it"


def test_a_full_disk_leaves_the_checkpoints_that_there_are(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.save(make_state(1), tensors())
    with full_disk(max_file_bytes=20_000), pytest.raises(OSError, match="File too large"):
        checkpoints.save(make_state(2), {"a": torch.ones(10_000)})
    assert list(tmp_path.iterdir()) == [path]
    assert steps(checkpoints) == [1]


@pytest.mark.parametrize(
    ("failpoint", "expected"),
    [
        ("mid-checkpoint", [1]),
        ("before-checkpoint-rename", [1]),
        ("after-checkpoint-rename", [2, 1]),
    ],
)
def test_a_kill_leaves_a_whole_checkpoint_or_none(tmp_path, failpoint, expected):
    Checkpoints(tmp_path, keep=2).save(make_state(1), tensors())
    saved = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path), msgspec.json.encode(make_state(2))],
        env={**os.environ, VARIABLE: f"{failpoint}@1"},
    )
    assert saved.returncode == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert steps(checkpoints) == expected
    checkpoints.remove_leftovers()
    assert len(list(tmp_path.iterdir())) == len(expected)
    checkpoints.save(make_state(2), tensors())
    assert steps(checkpoints) == [2, *expected]
