"""Children and signals as events, with real children and real signals."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until
from volley.launcher.children import Child
from volley.launcher.supervisor import Due, Ended, Interrupted, Said, Supervisor, Told
from volley.telemetry.stops import ExitCode, Stop

FOREVER = "import threading; print('up', flush=True); threading.Event().wait()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as supervisor:
        yield supervisor


def speaking(program: str, folder: Path, name: str = "tester") -> Child:
    return Child(name, [sys.executable, "-c", program], folder / f"{name}.log", {}, speaks=True)


def up(supervisor: Supervisor, child: Child) -> Child:
    """Start a child that says when it is up."""
    supervisor.start(child)
    assert supervisor.next_event() == Said(child, "up\n")
    return child


def test_lines_come_before_the_end(supervisor, tmp_path):
    child = speaking("print(1); print(2)", tmp_path)
    supervisor.start(child)
    events = [supervisor.next_event() for _ in range(3)]
    assert events == [Said(child, "1\n"), Said(child, "2\n"), Ended(child)]
    assert child.exit_code == 0


def test_a_stage_that_finishes_gives_its_last_line(supervisor, tmp_path):
    assert supervisor.finish(speaking("print('one'); print('two')", tmp_path)) == "two\n"


def test_a_stage_that_fails_raises_its_reason(supervisor, tmp_path):
    with pytest.raises(Stop, match="ValueError: no") as caught:
        supervisor.finish(speaking("print('one'); raise ValueError('no')", tmp_path))
    assert caught.value.code is ExitCode.ENVIRONMENT


def test_a_signal_is_an_event(supervisor):
    os.kill(os.getpid(), signal.SIGTERM)
    assert supervisor.next_event() == Told()


def test_a_signal_interrupts_a_stage_and_ends_its_process(supervisor, tmp_path):
    child = speaking(FOREVER, tmp_path)
    interrupt = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
    interrupt.start()
    with pytest.raises(Interrupted):
        supervisor.finish(child)
    interrupt.join()
    assert child.exit_code == -signal.SIGTERM


def test_a_child_that_ignores_being_told_is_killed_when_the_patience_is_over(supervisor, tmp_path):
    child = up(supervisor, speaking(STUBBORN, tmp_path))
    supervisor.stop([child], patience_s=0.1)
    assert child.exit_code == -signal.SIGKILL


def test_telling_a_second_time_kills_at_once(supervisor, tmp_path):
    children = [up(supervisor, speaking(STUBBORN, tmp_path, name)) for name in ("one", "two")]
    supervisor.post(Told())
    supervisor.stop(children[:1])
    supervisor.stop(children[1:])
    assert [child.exit_code for child in children] == [-signal.SIGKILL] * 2


def test_no_child_outlives_the_supervisor(tmp_path):
    with Supervisor() as supervisor:
        child = up(supervisor, speaking(FOREVER, tmp_path))
    assert child.exit_code == -signal.SIGTERM


def test_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGINT)
    with Supervisor():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_child_is_due_after_its_pause_and_can_start_again(supervisor, tmp_path):
    child = speaking("", tmp_path)
    supervisor.start(child)
    assert supervisor.next_event() == Ended(child)
    supervisor.start_later(child, 0.01)
    assert supervisor.next_event() == Due(child)
    supervisor.start(child)
    assert child.exit_code is None or child.exit_code == 0
    assert supervisor.next_event() == Ended(child)


def test_a_killed_launcher_takes_its_children_along(tmp_path):
    program = f"""
import sys
from pathlib import Path
from volley.launcher.children import Child
from volley.launcher.supervisor import Supervisor
log = Path({str(tmp_path / "sleeper.log")!r})
child = Child("sleeper", [sys.executable, "-c", {FOREVER!r}], log, {{}}, speaks=True)
with Supervisor() as supervisor:
    print(child.start().pid, flush=True)
    supervisor.next_event()
"""
    launcher = speaking(program, tmp_path)
    process = launcher.start()
    assert process.stdout is not None
    with process.stdout as lines:
        sleeper = int(lines.readline())
        process.kill()
        process.wait()
    wait_until(lambda: not Path(f"/proc/{sleeper}").exists() or is_zombie(sleeper))


def is_zombie(pid: int) -> bool:
    """Dead; nobody has reaped it yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
