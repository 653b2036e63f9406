"""The groups of a run that is over, step by step, out of its step log."""

from volley.learner.past_run import PastRun
from volley.schemas.codec import GroupLimits, decode_result
from volley.schemas.groups import Group


def steps_of(run: PastRun, limits: GroupLimits) -> list[list[Group]]:
    """What the learner trained on in each of the run's steps; all of them were kept."""
    return [_groups(run.log.read(place).groups, limits) for place in run.places(None, None)]


def _groups(bodies: tuple[bytes, ...], limits: GroupLimits) -> list[Group]:
    results = [decode_result(body, limits) for body in bodies]
    return [result for result in results if isinstance(result, Group)]
