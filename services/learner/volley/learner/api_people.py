"""Routes for people and their tools, about now: status, workers, ledger, readiness, metrics."""

from typing import Literal

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel

from volley.learner.api_examples import STATUS, WORKER
from volley.learner.api_problems import problems
from volley.learner.api_schemas import example
from volley.learner.served import Served
from volley.schemas.status import LedgerReport, StatusReport, WorkersReport
from volley.telemetry.metrics import expose_status

PROMETHEUS = "text/plain; version=0.0.4"


class Ready(BaseModel):
    """Workers can join and work."""

    status: Literal["ready"] = "ready"


def people_routes(served: Served) -> APIRouter:
    """A run at a glance, whole and in parts."""
    router = APIRouter(tags=["run"])

    @router.get("/readyz", responses=problems(503))
    def readyz() -> Ready:
        """Whether weights are published and Redis answers."""
        if served.store.head is None:
            raise HTTPException(503, "no weights are published yet")
        redis = served.report().redis
        if redis != "ok":
            raise HTTPException(503, f"redis: {redis}")
        return Ready()

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_model=None)
    def metrics() -> Response:
        """The status and the last step, as Prometheus reads them."""
        return Response(expose_status(served.report), media_type=PROMETHEUS)

    @router.get("/v1/status", responses={200: example(STATUS)})
    def status() -> StatusReport:
        """The run at a glance."""
        return served.report()

    @router.get("/v1/workers", responses={200: example(WorkersReport((WORKER,))), **problems(503)})
    def workers() -> WorkersReport:
        """Each worker's word about itself, of those that are alive."""
        report = served.report()
        if report.queue is None and report.redis != "ok":
            raise HTTPException(503, f"redis: {report.redis}")
        return WorkersReport(report.workers)

    @router.get("/v1/ledger", responses={200: example(_ledger(STATUS))})
    def ledger() -> LedgerReport:
        """Where all prompt numbers are, and what came more than once or not well."""
        return _ledger(served.report())

    return router


def _ledger(report: StatusReport) -> LedgerReport:
    return LedgerReport(report.ledger, report.deliveries, report.queue, report.places)
