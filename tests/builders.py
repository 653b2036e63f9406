"""Messages for tests: say what matters, the rest is filled in."""

from collections.abc import Sequence

from volley.schemas.groups import (
    SCHEMA_VERSION,
    Group,
    InsertedSpan,
    StopReason,
    Task,
    Trajectory,
    Version,
    VersionSpan,
    pack_logprobs,
    pack_token_ids,
)

RUN = "test-run"
FIRST_VERSION = Version(1, 0)


def make_task(
    number: int = 0,
    *,
    run: str = RUN,
    attempt: int = 0,
    seed: int = 0,
    min_version: Version = FIRST_VERSION,
    prompt: str | list[dict[str, str]] = "sort ba=",
    prompt_ids: Sequence[int] = (5, 4, 6),
    columns: dict[str, object] | None = None,
) -> Task:
    return Task(
        schema_version=SCHEMA_VERSION,
        run=run,
        number=number,
        attempt=attempt,
        seed=seed,
        min_version=min_version,
        prompt=prompt,
        prompt_ids=tuple(prompt_ids),
        columns={} if columns is None else columns,
    )


def make_trajectory(
    rewards: Sequence[float | None] = (1.0,),
    *,
    token_ids: Sequence[int] = (4, 5, 1),
    sampler_logprobs: Sequence[float] | None = None,
    versions: Sequence[Version] | None = None,
    inserted: Sequence[tuple[int, int]] = (),
    stop_reason: StopReason = StopReason.STOP,
    text: str = "ab",
) -> Trajectory:
    """`versions` is one per token; `inserted` is (start, stop) pairs."""
    per_token = [FIRST_VERSION] * len(token_ids) if versions is None else versions
    logprobs = [-1.0] * len(token_ids) if sampler_logprobs is None else sampler_logprobs
    return Trajectory(
        token_bytes=pack_token_ids(token_ids),
        logprob_bytes=pack_logprobs(logprobs),
        version_spans=tuple(VersionSpan(1, version) for version in per_token),
        inserted_spans=tuple(InsertedSpan(start, stop) for start, stop in inserted),
        stop_reason=stop_reason,
        text=text,
        rewards=tuple(rewards),
    )


def make_group(
    rewards: Sequence[float | None] = (1.0, 0.0),
    *,
    number: int = 0,
    run: str = RUN,
    attempt: int = 0,
    worker: str = "worker",
    prompt_ids: Sequence[int] = (5, 4, 6),
    trajectories: Sequence[Trajectory] | None = None,
) -> Group:
    """One trajectory per reward, unless `trajectories` says otherwise."""
    if trajectories is None:
        trajectories = [make_trajectory([reward]) for reward in rewards]
    return Group(
        schema_version=SCHEMA_VERSION,
        run=run,
        number=number,
        attempt=attempt,
        worker=worker,
        prompt_ids=tuple(prompt_ids),
        trajectories=tuple(trajectories),
    )
