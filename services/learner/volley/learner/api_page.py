"""The live page of a run at `/`: numbers written here, so that they read without JavaScript.

page_files/page.html writes a StatusReport and some groups; page.js asks for the page again when
something has happened and puts what differs in its place, draws the curves, and sends orders.
Nothing comes from outside. Prompts and completions are anybody's text: the template escapes them,
and the policy lets no script run but our own.
"""

import threading
import time
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from math import inf
from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, StrictUndefined
from rich.filesize import decimal

from volley.learner.health import lag
from volley.learner.logged_groups import LoggedGroups
from volley.learner.served import Served
from volley.schemas.past import GroupDetails
from volley.schemas.status import StatusReport
from volley.telemetry.stops import Stop

FILES = files("volley.learner") / "page_files"
STATIC = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "uplot-1.6.32.min.css": "text/css",
    "uplot-1.6.32.min.js": "text/javascript",
}
"""What the page is made of; uPlot is MIT-licensed (page_files/uplot-LICENSE)."""
StaticName = Literal[
    "page.css", "page.js", "icon.svg", "uplot-1.6.32.min.css", "uplot-1.6.32.min.js"
]
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
NUM_GROUPS = 6
GROUPS_S = 2.0
"""Groups are read from the disk so often at most, however many look."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure of the page: metrics of each step, and of evaluations, against the step."""

    title: str
    metrics: tuple[str, ...]
    """The first one is also written as a number."""
    labels: tuple[str, ...]
    digits: int
    evaluations: tuple[str, ...] = ()
    evaluation_labels: tuple[str, ...] = ()


CURVES = (
    Curve(
        *("Reward", ("reward_mean",), ("training",), 3),
        *(("reward", "reward_greedy"), ("held out", "greedy")),
    ),
    Curve("KL to the sampler", ("kl",), ("kl",), 5),
    Curve("Entropy", ("entropy",), ("nats",), 3),
    Curve(
        *("Completion length", ("completion_length_mean", "completion_length_max")),
        *(("mean", "max"), 1),
    ),
    Curve("Staleness", ("staleness_mean", "staleness_max"), ("mean", "max"), 2),
    Curve("Tokens trained per second", ("tokens_per_s",), ("tokens/s",), 0),
)


def page_routes(served: Served) -> APIRouter:
    """The page and its files."""
    router = APIRouter(include_in_schema=False)
    groups = NewestGroups(LoggedGroups(served.folder))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"figure": figure, "amount": amount, "size": decimal, "span": span}
    template = environment.from_string((FILES / "page.html").read_text(encoding="utf-8"))

    @router.get("/")
    def page() -> HTMLResponse:
        report = served.report()
        html = template.render(
            report=report,
            groups=groups.read(),
            curves=CURVES,
            lag=partial(lag, report),
            ledger=ledger_shares(report),
        )
        return HTMLResponse(html, headers=HEADERS)

    @router.get("/static/{name}")
    def static(name: StaticName) -> Response:
        return Response((FILES / name).read_bytes(), media_type=STATIC[name], headers=HEADERS)

    return router


class NewestGroups:
    """Some groups of the newest logged step, for any number of readers."""

    def __init__(self, logged: LoggedGroups) -> None:
        self._logged = logged
        self._reading = threading.Lock()
        self._read_s = -inf
        self._groups: tuple[GroupDetails, ...] = ()

    def read(self) -> tuple[GroupDetails, ...]:
        """At most NUM_GROUPS, first those that teach, GROUPS_S old at most."""
        with self._reading:
            if time.monotonic() - self._read_s >= GROUPS_S:
                self._groups = self._newest()
                self._read_s = time.monotonic()
            return self._groups

    def _newest(self) -> tuple[GroupDetails, ...]:
        try:
            return self._logged.newest(NUM_GROUPS)
        except Stop:
            # Nothing is logged yet, or the step has just been dropped: the next look finds another.
            return ()


def ledger_shares(report: StatusReport) -> list[tuple[str, int, float]]:
    """State, count and percentage of all prompt numbers issued, of the states that occur."""
    ledger = report.ledger
    counts = {
        "trained": ledger.trained,
        "open": ledger.open,
        "filtered": ledger.filtered,
        "refused": ledger.refused,
        "skipped": ledger.skipped,
    }
    return [
        (state, count, round(100 * count / ledger.issued, 2))
        for state, count in counts.items()
        if count
    ]


def figure(value: float | None, digits: int = 3) -> str:
    """A number with so many digits behind the point; a dash for none."""
    return "\N{EN DASH}" if value is None else f"{value:,.{digits}f}"


def amount(value: float) -> str:
    """A count with its thousands apart."""
    return f"{value:,.0f}"


def span(seconds: float | None) -> str:
    """A time in the unit that suits it; a dash for none."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, _ = divmod(round(seconds), 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
