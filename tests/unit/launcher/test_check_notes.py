from volley.launcher.check_notes import Notes
from volley.launcher.findings import Level, bad, warn
from volley.telemetry.stops import ExitCode, Stop


def stopping(code: ExitCode):
    def stop() -> int:
        raise Stop(code, "lower it")

    return stop


def test_what_is_taken_is_given_on():
    notes = Notes()
    assert notes.take("data", lambda: 7) == 7
    assert notes.findings == []
    assert notes.exit_code is ExitCode.DONE


def test_a_stop_is_noted_in_its_own_words():
    notes = Notes()
    assert notes.take("data", stopping(ExitCode.CONFIG)) is None
    [only] = notes.findings
    assert (only.level, only.subject, only.found) == (Level.BAD, "data", "lower it")


def test_mistakes_count_more_than_what_the_machine_lacks():
    notes = Notes()
    notes.add(warn("disk", "small", "make room"))
    assert notes.exit_code is ExitCode.DONE
    notes.take("trackers", stopping(ExitCode.ENVIRONMENT))
    notes.add(bad("redis", "away", "start it"))
    assert (notes.has_mistakes, notes.exit_code) == (False, ExitCode.ENVIRONMENT)
    notes.take("reward", stopping(ExitCode.CONFIG))
    assert (notes.has_mistakes, notes.exit_code) == (True, ExitCode.CONFIG)
