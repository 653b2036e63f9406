"""Routes for people and their tools, about what was: steps, evaluations, groups."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from volley.learner.api_examples import EVALUATION, GROUP, GROUPS, STEP
from volley.learner.api_problems import problems
from volley.learner.api_schemas import example
from volley.learner.logged_groups import LoggedGroups
from volley.learner.metrics_file import MetricsLine, MetricsPages
from volley.learner.served import Served
from volley.schemas.past import (
    EvaluationsPage,
    GroupDetails,
    GroupsPage,
    MetricsReport,
    StepsPage,
)

MAX_NUMBER = 2**53
"""Greatest integer that JSON carries everywhere."""
MAX_LIMIT = 1000

After = Annotated[int, Query(ge=-1, le=MAX_NUMBER, examples=[-1])]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, examples=[100])]
Step = Annotated[int | None, Query(ge=0, le=MAX_NUMBER, examples=[37])]
Number = Annotated[int, Path(ge=0, le=MAX_NUMBER, examples=[5])]


def past_routes(served: Served, steps: MetricsPages, evaluations: MetricsPages) -> APIRouter:
    """What a run has done; prompts and completions are in it."""
    router = APIRouter(prefix="/v1", tags=["past"])
    groups = LoggedGroups(served.folder)

    @router.get("/steps", responses={200: example(StepsPage((STEP,), 37))})
    def read_steps(after: After = -1, limit: Limit = 100) -> StepsPage:
        """The lines of metrics.jsonl for steps later than `after`, oldest first.

        Give `next` as `after` for the page behind this one, until it is null.
        """
        page, following = _page(steps, after, limit)
        return StepsPage(page, following)

    @router.get(
        "/evaluations",
        responses={200: example(EvaluationsPage((EVALUATION,), None))},
    )
    def read_evaluations(after: After = -1, limit: Limit = 100) -> EvaluationsPage:
        """The lines of evaluations.jsonl for versions later than step `after`, oldest first."""
        page, following = _page(evaluations, after, limit)
        return EvaluationsPage(page, following)

    @router.get("/groups", responses={200: example(GROUPS), **problems(404, 503)})
    def read_groups(step: Step = None) -> GroupsPage:
        """The groups of a step in figures; of the newest one that is logged, if none is given."""
        return groups.page(step)

    @router.get("/groups/{number}", responses={200: example(GROUP), **problems(404, 503)})
    def read_group(number: Number, step: Step = None) -> GroupDetails:
        """One prompt of a step and all answers to it, as text.

        Of the newest step that is logged, if none is given.
        """
        return groups.details(number, step)

    return router


def as_report(line: MetricsLine) -> MetricsReport:
    """The line as it is sent."""
    return MetricsReport(line.version.epoch, line.version.step, line.root, line.metrics)


def _page(
    pages: MetricsPages, after: int, limit: int
) -> tuple[tuple[MetricsReport, ...], int | None]:
    lines, has_more = pages.after(after, limit)
    return tuple(map(as_report, lines)), lines[-1].version.step if has_more else None
