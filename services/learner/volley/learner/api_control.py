"""Routes for those who may command: pause, resume, checkpoint, stop; let a worker leave."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path

from volley.learner.api_problems import problems
from volley.learner.control import Control
from volley.learner.served import Served


class Command(StrEnum):
    """What a run can be told."""

    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class _Order:
    give: Callable[[Control], None]
    consequence: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What happens now."""

    detail: str


ORDERS = {
    Command.PAUSE: _Order(
        Control.pause,
        "pausing after the step in hand: nothing is issued and nothing trained until `resume`",
    ),
    Command.RESUME: _Order(Control.resume, "going on"),
    Command.CHECKPOINT: _Order(
        Control.checkpoint, "saving a checkpoint after the step in hand, if there is anything new"
    ),
    Command.STOP: _Order(
        Control.stop,
        "stopping after the step in hand, with a checkpoint; the command that started the run "
        "goes on with it",
    ),
}


def control_routes(served: Served) -> APIRouter:
    """All that changes anything."""
    router = APIRouter(prefix="/v1", tags=["control"])

    @router.post("/control/{command}", status_code=202)
    def control(command: Command) -> Accepted:
        """Tell the run something; it listens between two steps, and while it waits for groups."""
        order = ORDERS[command]
        order.give(served.control)
        return Accepted(order.consequence)

    @router.post("/workers/{worker}/drain", status_code=202, responses=problems(404, 503))
    def drain(worker: Annotated[str, Path(max_length=128)]) -> Accepted:
        """Let a worker finish or hand back what it holds and leave, as SIGTERM does."""
        known = [report.worker for report in served.report().workers]
        if worker not in known:
            there = ", ".join(known) or "none"
            raise HTTPException(404, f"no such worker; there is: {there}")
        served.dismiss(worker)
        return Accepted("the worker leaves with its next heartbeat, after what it has in hand")

    return router
