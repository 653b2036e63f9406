"""What a person sees of a run."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tests.reports import REPORT, report_at
from volley.launcher.progress import BARS, Pace, Progress, clock, line, render, shorten, sparkline
from volley.schemas.status import LearnerState


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=110, highlight=False)


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_a_sparkline_goes_from_the_least_to_the_greatest():
    assert sparkline([0.0, 1.0, 0.5]) == BARS[0] + BARS[7] + BARS[4]
    assert sparkline([3.0, 3.0]) == BARS[0] * 2
    assert sparkline([]) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (4.6, "0:05 left"), (125.0, "2:05 left"), (7322.0, "2:02:02 left")],
)
def test_the_time_left_is_short_to_read(seconds, text):
    assert clock(seconds) == text


def test_the_pace_counts_from_the_first_step_that_was_seen():
    pace = Pace()
    # Starting up, 100 s long, says nothing about the steps.
    assert pace.left_s(0, 10, now_s=0.0) is None
    assert pace.left_s(1, 10, now_s=100.0) is None
    assert pace.left_s(1, 10, now_s=101.0) is None
    assert pace.left_s(3, 10, now_s=104.0) == pytest.approx(14.0)


def test_a_line_holds_the_figures_of_the_last_step():
    assert line(REPORT, 65.0) == (
        "step 37/300  reward 0.412  kl 0.0021  staleness 1.2  samples/s 812  workers 1  "
        "queue 64/96  training  1:05 left"
    )


def test_panel_and_line_say_that_redis_is_away():
    away = replace(REPORT, queue=None, redis="degraded: no answer")
    on = console()
    on.print(render(away, None, ""))
    for text in (shown(on), line(away, None)):
        assert "queue ?/96" in text
        assert "Redis degraded: no answer" in text


def test_panel_and_line_say_that_the_disk_is_full():
    full = replace(REPORT, disk="degraded: 12 MB free")
    on = console()
    on.print(render(full, None, ""))
    for text in (shown(on), line(full, None)):
        assert "disk degraded: 12 MB free" in text


def test_a_replay_is_shown_and_is_no_pace():
    replaying = replace(
        report_at(0, 0.5), state=LearnerState.REPLAYING, replay="3 of 12 logged steps taken again"
    )
    on = console(terminal=True)
    with Progress(on, sample_every=10) as progress:
        progress.show(report_at(1, 0.5))
        progress.show(report_at(5, 0.5))
        progress.show(replaying)
        panel = shown(on).rpartition("step 0 of 300")[2]
    assert "replaying: 3 of 12 logged steps taken again" in panel
    assert "left" not in panel


def test_a_cold_start_is_shown_once():
    cold = replace(REPORT, state=LearnerState.COLD_START, cold_start="step 3 of 64, loss 1.234")
    told = line(cold, None)
    assert "cold start: step 3 of 64, loss 1.234" in told
    assert told.count("cold start") == 1


def test_a_pipe_gets_a_line_now_and_then():
    on = console()
    with Progress(on, sample_every=10) as progress:
        progress.show(report_at(1, reward=0.25))
        progress.show(report_at(2, reward=0.5))
    assert shown(on).splitlines() == [line(report_at(1, reward=0.25), None)]


def test_a_terminal_gets_a_panel_with_the_steps_so_far():
    on = console(terminal=True)
    with Progress(on, sample_every=10) as progress:
        for step, reward in [(0, None), (1, 0.0), (1, 0.0), (4, 1.0)]:
            progress.show(report_at(step, reward))
        panel = shown(on)
    assert "step 4 of 300" in panel
    # One bar a step, however often it was seen.
    assert BARS[0] + BARS[7] in panel
    assert BARS[0] * 2 not in panel


def test_a_sample_is_shown_once_in_so_many_steps():
    on = console()
    with Progress(on, sample_every=10) as progress:
        for step in (1, 9, 11, 12, 19, 25):
            progress.show(report_at(step, 0.5, sample=f"sample of {step}"))
    samples = [one for one in shown(on).splitlines() if "sample of" in one]
    assert samples == ["step 11: sample of 11", "step 25: sample of 25"]


def test_markup_in_a_sample_is_text():
    on = console()
    with Progress(on, sample_every=1) as progress:
        progress.show(report_at(1, 0.5, sample="[bold]a[/bold]"))
    assert "step 1: [bold]a[/bold]" in shown(on)


def test_a_long_sample_is_cut_and_stays_on_one_line():
    assert shorten("a\nb") == "a\\nb"
    assert shorten("x" * 500) == "x" * 200 + "..."


def test_a_note_stays_in_full():
    on = console()
    Progress(on, sample_every=1).note("rollout-0 died [signal SIGKILL]")
    assert shown(on) == "rollout-0 died [signal SIGKILL]\n"
