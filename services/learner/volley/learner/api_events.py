"""The run as it happens, by server-sent events; however many listen, it is looked at once a second.

    event: status       the run at a glance, as GET /v1/status
    event: step         one step that was applied, as GET /v1/steps has it
    event: evaluation   one version that was evaluated, as GET /v1/evaluations has it
    event: end          why the learner goes away, before it does

Nothing is queued for a listener: it is sent the newest status, and of the metrics files what is
behind the lines that it had. So one that is slow misses statuses, but no line. The id of an event
names those lines, and who comes back with it as `Last-Event-ID` goes on there.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from math import inf
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent

from volley.learner.api_examples import END, EVALUATION, STATUS, STEP
from volley.learner.api_past import as_report
from volley.learner.api_problems import problems
from volley.learner.api_schemas import Schema
from volley.learner.metrics_file import MetricsPages
from volley.learner.served import Served
from volley.schemas.groups import Version
from volley.schemas.status import RunEnd

LOOK_S = 1.0
RETRY_MS = 2000
"""After which a browser that was cut off comes back."""
MAX_LISTENERS = 64
MAX_LINES = 1000
"""Sent at each look to a listener that has been away."""
TOO_MANY = f"{MAX_LISTENERS} listen already: close one of them, or ask /v1/status now and then"
PLACE = re.compile(r"(\d{1,15})\.(\d{1,15})-(\d{1,15})\.(\d{1,15})")


class Reading:
    """What one listener has read of the metrics files; reads on."""

    def __init__(self, steps: MetricsPages, evaluations: MetricsPages, last_id: str) -> None:
        self._steps = steps
        self._evaluations = evaluations
        given = PLACE.fullmatch(last_id)
        if given:
            epoch, step, evaluation_epoch, evaluation_step = map(int, given.groups())
            self._step = Version(epoch, step)
            self._evaluation = Version(evaluation_epoch, evaluation_step)
        else:
            self._step, self._evaluation = steps.newest(), evaluations.newest()

    def event(self, name: str, content: str) -> ServerSentEvent:
        """An event that finds its listener here."""
        place = f"{self._step}-{self._evaluation}"
        return ServerSentEvent(event=name, raw_data=content, id=place, retry=RETRY_MS)

    def lines(self) -> list[ServerSentEvent]:
        """Steps and evaluations that were written since the last call."""
        return [*self._read_on()]

    def _read_on(self) -> Iterator[ServerSentEvent]:
        for line in self._steps.behind(self._step, MAX_LINES):
            self._step = line.version
            yield self.event("step", _written(as_report(line)))
        for line in self._evaluations.behind(self._evaluation, MAX_LINES):
            self._evaluation = line.version
            yield self.event("evaluation", _written(as_report(line)))


class Events:
    """What happens in one served learner, for any number of listeners on one event loop."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._looking = asyncio.Lock()
        self._looked_s = -inf
        self._status = ""
        self._ended: asyncio.Future[RunEnd | None] | None = None
        self._num_listeners = 0

    async def listening(self) -> AsyncIterator[None]:
        """One of the listeners, while inside; raises HTTPException where there are too many."""
        if self._num_listeners == MAX_LISTENERS:
            raise HTTPException(503, TOO_MANY)
        self._num_listeners += 1
        try:
            yield
        finally:
            self._num_listeners -= 1

    async def stream(self, reading: Reading) -> AsyncIterator[ServerSentEvent]:
        """All that happens from where `reading` is, until the learner ends."""
        end = self._served.end
        # One for all: a future never forgets whom it has to tell.
        ended = self._ended = self._ended or asyncio.wrap_future(end)
        while not end.done():
            yield reading.event("status", await self._newest_status())
            for event in await asyncio.to_thread(reading.lines):
                yield event
            await asyncio.wait([ended], timeout=LOOK_S)
        for event in await asyncio.to_thread(reading.lines):
            yield event
        told = end.result()
        if told is not None:
            yield reading.event("end", _written(told))

    async def _newest_status(self) -> str:
        async with self._looking:
            if time.monotonic() - self._looked_s >= LOOK_S:
                self._status = _written(await asyncio.to_thread(self._served.report))
                self._looked_s = time.monotonic()
            return self._status


def event_routes(served: Served, steps: MetricsPages, evaluations: MetricsPages) -> APIRouter:
    """The stream of events."""
    router = APIRouter(prefix="/v1", tags=["events"])
    events = Events(served)
    stream: Schema = {"content": {"text/event-stream": {"example": _example()}}}

    @router.get(
        "/events",
        response_class=EventSourceResponse,
        responses={200: stream, **problems(503)},
        dependencies=[Depends(events.listening)],
    )
    async def listen(
        last_event_id: Annotated[str, Header(examples=["1.37-1.30"])] = "",
    ) -> AsyncIterable[ServerSentEvent]:
        """The run as it happens: `status` every second, `step`, `evaluation`, at last `end`.

        The data of `status` is that of /v1/status, of `step` and `evaluation` one element of
        /v1/steps and /v1/evaluations. Listen first, then read the pages: nothing falls between.
        """
        reading = await asyncio.to_thread(Reading, steps, evaluations, last_event_id)
        async for event in events.stream(reading):
            yield event

    return router


def _written(content: object) -> str:
    return msgspec.json.encode(content).decode()


def _example() -> str:
    named = {"status": STATUS, "step": STEP, "evaluation": EVALUATION, "end": END}
    return "".join(
        f"event: {name}\ndata: {_written(content)}\nid: 1.37-1.30\nretry: {RETRY_MS}\n\n"
        for name, content in named.items()
    )
