"""What a person sees while a run trains: a live panel in a terminal, else a line now and then."""

import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from volley.schemas.status import LearnerState, StatusReport

LINE_INTERVAL_S = 5.0
SPARK_STEPS = 40
BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
ASCII_BARS = "_.:-=+*#"
BAR_WIDTH = 40
SAMPLE_LENGTH = 200
BEFORE_THE_LOOP = (LearnerState.STARTING, LearnerState.COLD_START, LearnerState.REPLAYING)
"""Steps seen meanwhile say nothing about the pace."""


class Progress:
    """Shows reports and notes on a console; inside its `with`, a terminal has a live panel."""

    def __init__(self, console: Console, sample_every: int) -> None:
        self._console = console
        self._sample_every = sample_every
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._rewards: deque[float] = deque(maxlen=SPARK_STEPS)
        self._pace = Pace()
        self._step = 0
        self._sampled_step = 0
        self._line_due_s = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def show(self, report: StatusReport) -> None:
        """Bring the panel, or the lines, up to date."""
        left_s = None
        if report.state not in BEFORE_THE_LOOP:
            left_s = self._pace.left_s(report.version.step, report.steps, time.monotonic())
            self._take_reward(report)
            self._show_sample(report)
        if self._live.is_started:
            bars = ASCII_BARS if self._console.options.ascii_only else BARS
            panel = render(report, left_s, sparkline(self._rewards, bars))
            self._live.update(panel, refresh=True)
        elif time.monotonic() >= self._line_due_s:
            self._line_due_s = time.monotonic() + LINE_INTERVAL_S
            self._console.print(line(report, left_s), markup=False, highlight=False, soft_wrap=True)

    def _take_reward(self, report: StatusReport) -> None:
        reward = report.metrics.get("reward_mean")
        if report.version.step > self._step and reward is not None:
            self._rewards.append(reward)
        self._step = report.version.step

    def _show_sample(self, report: StatusReport) -> None:
        step = report.version.step
        if report.sample is None or step < self._sampled_step + self._sample_every:
            return
        self._sampled_step = step - step % self._sample_every
        sample = Text(f"step {step}: {shorten(report.sample)}", style="dim", overflow="ellipsis")
        self._console.print(sample, soft_wrap=True)


class Pace:
    """Steps per second since the first step that was seen, and what follows from it."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def left_s(self, step: int, steps: int, now_s: float) -> float | None:
        """Seconds until `steps` are done at this pace; None while it is unknown."""
        if self._first is None:
            self._first = (step, now_s) if step else None
            return None
        first_step, first_s = self._first
        if step == first_step:
            return None
        return (now_s - first_s) / (step - first_step) * (steps - step)


def render(report: StatusReport, left_s: float | None, spark: str) -> RenderableType:
    """The live panel."""
    step, steps = report.version.step, report.steps
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        Text(report.run, style="bold"),
        f"step {step} of {steps}",
        ProgressBar(total=steps, completed=step, width=BAR_WIDTH),
        clock(left_s),
    )
    figures = Table.grid(padding=(0, 2))
    figures.add_row("reward", Text(number(report, "reward_mean"), style="bold green"), spark)
    rows: list[RenderableType] = [bar, figures, Text("   ".join(_figures(report)))]
    return Group(*rows, *(Text(trouble, style="yellow") for trouble in _troubles(report)))


def line(report: StatusReport, left_s: float | None) -> str:
    """The same in one line, for logs and pipes."""
    step = f"step {report.version.step}/{report.steps}"
    reward = f"reward {number(report, 'reward_mean')}"
    return "  ".join([step, reward, *_figures(report), *_troubles(report), clock(left_s)]).rstrip()


def _troubles(report: StatusReport) -> list[str]:
    """What keeps the run from going on as it should."""
    how_far = report.cold_start or report.replay
    told = [f"{report.state}: {how_far}"] if how_far else []
    told += [f"Redis {report.redis}"] if report.redis != "ok" else []
    return told + ([f"disk {report.disk}"] if report.disk != "ok" else [])


def _figures(report: StatusReport) -> list[str]:
    waiting = "?" if report.queue is None else str(report.queue.outstanding)
    return [
        f"kl {number(report, 'kl', 4)}",
        f"staleness {number(report, 'staleness_mean', 1)}",
        f"samples/s {number(report, 'samples_per_s', 0)}",
        f"workers {len(report.workers)}",
        f"queue {waiting}/{report.places}",
        # What takes long before the loop is told with how far it is.
        *([] if report.cold_start or report.replay else [report.state.value]),
    ]


def number(report: StatusReport, metric: str, decimals: int = 3) -> str:
    """A metric of the last step as a person wants it; `-` where there is none."""
    value = report.metrics.get(metric)
    return "-" if value is None else f"{value:.{decimals}f}"


def clock(seconds: float | None) -> str:
    """`2:05 left`; nothing while nobody knows."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}") + " left"


def sparkline(values: Iterable[float], bars: str = BARS) -> str:
    """One bar a value, from the least to the greatest of them."""
    drawn = list(values)
    least, greatest = min(drawn, default=0.0), max(drawn, default=0.0)
    span = (greatest - least) or 1.0
    return "".join(bars[round((value - least) / span * (len(bars) - 1))] for value in drawn)


def shorten(text: str) -> str:
    """One line of a trajectory, with its line breaks shown, cut where it is long."""
    plain = text.replace("\n", "\\n")
    return plain if len(plain) <= SAMPLE_LENGTH else f"{plain[:SAMPLE_LENGTH]}..."
