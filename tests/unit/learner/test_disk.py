import threading
from collections.abc import Callable

import pytest

from volley.learner.disk import Disk
from volley.learner.status import Progress
from volley.schemas.groups import Version
from volley.telemetry.stops import ExitCode, Stop


class Refusing:
    """A write that fails so many times, and calls back each time."""

    def __init__(self, num_failures: int, on_failure: Callable[[], object] = lambda: None) -> None:
        self.num_left = num_failures
        self._on_failure = on_failure

    def __call__(self) -> str:
        if self.num_left:
            self.num_left -= 1
            self._on_failure()
            raise OSError(28, "No space left on device")
        return "written"


@pytest.fixture
def progress():
    return Progress("r", 1, Version(1, 0))


@pytest.fixture
def stopping():
    return threading.Event()


def test_a_write_is_tried_until_there_is_room(tmp_path, progress, stopping):
    disk = Disk(tmp_path, 0, progress, stopping)
    seen = []
    assert disk.write(Refusing(2, lambda: seen.append(progress.disk))) == "written"
    assert seen[0] == "ok"
    assert seen[1].startswith("degraded: cannot write to")
    assert progress.disk == "ok"


def test_told_to_stop_it_says_what_to_do(tmp_path, progress, stopping):
    disk = Disk(tmp_path, 0, progress, stopping)
    with pytest.raises(Stop, match=r"No space left on device: make room and start again") as end:
        disk.write(Refusing(1000, stopping.set))
    assert end.value.code is ExitCode.ENVIRONMENT


def test_too_little_room_is_said(tmp_path, progress, stopping):
    assert not Disk(tmp_path, 2**62, progress, stopping).has_room()
    assert "checkpoint.min_free_bytes" in progress.disk
    assert Disk(tmp_path, 0, progress, stopping).has_room()
    assert progress.disk == "ok"
