"""A child's end, and what its command makes of it."""

import signal
import sys
from math import inf
from pathlib import Path

from volley.launcher.children import Child, pause_after
from volley.telemetry.stops import ExitCode

STOPPING = """
import sys
from volley.telemetry.stops import ExitCode, Stop, reporting_stops
print("warming up", file=sys.stderr)
with reporting_stops():
    raise Stop(ExitCode.DIVERGED, "the loss is not finite:\\n  lower the learning rate")
"""


def run_to_end(child: Child) -> Child:
    child.exit_code = child.start().wait()
    return child


def python(program: str, folder: Path, environment: dict[str, str] | None = None) -> Child:
    return Child(
        "tester", [sys.executable, "-c", program], folder / "logs" / "tester.log", environment or {}
    )


def test_pauses_double_and_end():
    assert [pause_after(deaths) for deaths in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]


def test_a_child_that_keeps_dying_at_once_is_given_up(tmp_path):
    child = python("raise SystemExit(1)", tmp_path)
    pauses = [run_to_end(child).pause_s() for _ in range(4)]
    assert pauses == [0.5, 1.0, 2.0, None]


def test_a_child_that_has_shown_to_be_well_has_all_its_starts_again(tmp_path):
    child = python("raise SystemExit(1)", tmp_path)
    assert [run_to_end(child).pause_s() for _ in range(2)] == [0.5, 1.0]
    child.forgive()
    assert run_to_end(child).pause_s() == 0.5


def test_of_some_children_no_life_is_long_enough_to_forgive_a_death(tmp_path):
    pauses = {}
    for quick_death_s in (0.0, inf):
        child = Child(
            "tester",
            [sys.executable, "-c", "raise SystemExit(1)"],
            tmp_path / "tester.log",
            {},
            quick_death_s=quick_death_s,
        )
        pauses[quick_death_s] = [run_to_end(child).pause_s() for _ in range(2)]
    assert pauses == {0.0: [0.5, 0.5], inf: [0.5, 1.0]}


def test_the_stop_of_a_child_becomes_the_stop_of_the_command(tmp_path):
    reason = run_to_end(python(STOPPING, tmp_path)).reason()
    assert reason.code is ExitCode.DIVERGED
    assert reason.message == "the loss is not finite:\n  lower the learning rate"


def test_a_crash_shows_the_last_lines_and_where_the_log_is(tmp_path):
    child = run_to_end(python("raise RuntimeError('out of luck')", tmp_path))
    reason = child.reason()
    assert reason.code is ExitCode.ENVIRONMENT
    assert reason.message.startswith(f"tester died (exit code 1), the end of {child.log}:")
    assert reason.message.endswith("RuntimeError: out of luck")


def test_a_stop_from_an_earlier_start_is_not_the_reason_of_a_later_crash(tmp_path):
    run_to_end(python(STOPPING, tmp_path))
    killed = run_to_end(python("import os; os.kill(os.getpid(), 9)", tmp_path))
    assert killed.how_it_ended() == "signal SIGKILL"
    assert killed.reason().message.startswith("tester died (signal SIGKILL)")


def test_what_a_silent_child_prints_is_in_its_log(tmp_path):
    child = python("import os; print(os.environ['WORD'])", tmp_path, {"WORD": "printed"})
    run_to_end(child)
    assert child.log.read_text() == "printed\n"


def test_a_signal_to_a_child_that_is_gone_does_nothing(tmp_path):
    child = python("", tmp_path)
    child.send(signal.SIGTERM)
    run_to_end(child).send(signal.SIGTERM)
    assert not child.is_running


def test_options_that_do_not_exist_are_no_fault_of_the_machine(tmp_path):
    stop = run_to_end(python("raise SystemExit(2)", tmp_path)).reason()
    assert stop.code is ExitCode.CONFIG
    stop = run_to_end(python("raise SystemExit(1)", tmp_path)).reason()
    assert stop.code is ExitCode.ENVIRONMENT
