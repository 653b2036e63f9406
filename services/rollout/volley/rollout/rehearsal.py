"""Tasks answered without a learner and without Redis: for `volley check` and `volley evaluate`.

FOLDER/rehearsal    in: what a worker is told otherwise
FOLDER/model/       in: configuration, tokenizer and weights
FOLDER/answers      out: for each task what a worker would deliver
"""

import itertools
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import torch
from msgspec import Struct
from safetensors.torch import load_file

from volley.rollout.assembly import check_room, episode_rules, find_code, make_engine
from volley.rollout.engine import InvalidWeights, LoadFailed
from volley.rollout.episodes import Episodes, EpisodesEnded, EpisodesFailed, EpisodesRequest
from volley.rollout.reward_pool import RewardPool
from volley.rollout.rewards import RewardFailed
from volley.rollout.scoring import failure_of, group_of, score_episodes, settle
from volley.rollout.settings import WorkerSettings
from volley.rollout.tokenizer import Tokenizer
from volley.schemas.codec import encode
from volley.schemas.groups import FailureReason, Task, Version
from volley.schemas.run_spec import RunSpec
from volley.telemetry.stops import ExitCode, Stop

WORKER = "rehearsal"

Ended = EpisodesEnded | EpisodesFailed


class Rehearsal(Struct, frozen=True):
    """What is to be answered, and how."""

    spec: RunSpec
    tasks: tuple[Task, ...]


class Answer(Struct, frozen=True):
    """What came of one task."""

    body: bytes
    """The group or failure, as it would travel."""
    complaints: tuple[str, ...] = ()
    """Why completions of a group have no reward, each reason once."""
    unrewarded: bytes | None = None
    """The group behind a failure of a reward, for the eye."""


def rehearse(folder: Path, settings: WorkerSettings, tell: Callable[[int], None]) -> None:
    """Answer the tasks in `folder` as a worker with these settings would; raises Stop.

    `tell` hears how many have been sampled so far.
    """
    torch.set_num_threads(settings.num_threads)
    rehearsal = msgspec.msgpack.decode((folder / "rehearsal").read_bytes(), type=Rehearsal)
    check_room(rehearsal.spec, settings)
    engine = make_engine(settings, rehearsal.spec, folder / "model")
    try:
        engine.load(_weights(folder / "model"), Version(1, 0))
        tokenizer = Tokenizer(folder / "model")
        code_folder = find_code(settings, rehearsal.spec)
        rules = episode_rules(rehearsal.spec, code_folder)
        limits = rehearsal.spec.reward_limits
        with (
            closing(Episodes(engine, tokenizer, rehearsal.spec.vocab_size, rules)) as episodes,
            closing(RewardPool(rehearsal.spec.rewards, code_folder, limits)) as rewards,
        ):
            ended = _sample(episodes, rehearsal, tell)
            answers = [
                _answer(task, ended[str(index)], tokenizer, rewards, limits.on_failure)
                for index, task in enumerate(rehearsal.tasks)
            ]
    except (InvalidWeights, LoadFailed) as error:
        raise Stop(ExitCode.ENVIRONMENT, str(error)) from error
    finally:
        engine.close()
    (folder / "answers").write_bytes(msgspec.msgpack.encode(answers))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return dict(itertools.chain.from_iterable(load_file(file).items() for file in files))


def _sample(
    episodes: Episodes, rehearsal: Rehearsal, tell: Callable[[int], None]
) -> Mapping[str, Ended]:
    """How each task ended, by its place."""
    for index, task in enumerate(rehearsal.tasks):
        sampling = task.sampling or rehearsal.spec.sampling
        episodes.begin(
            EpisodesRequest(
                *(str(index), task.prompt, task.prompt_ids, task.columns, task.seed, sampling)
            )
        )
    found: dict[str, Ended] = {}
    while len(found) < len(rehearsal.tasks):
        ended = episodes.step().ended
        found |= {one.id: one for one in ended}
        if ended:
            tell(len(found))
    return found


def _answer(
    task: Task, ended: Ended, tokenizer: Tokenizer, pool: RewardPool, on_failure: float | None
) -> Answer:
    if isinstance(ended, EpisodesFailed):
        return Answer(encode(failure_of(task, WORKER, ended.reason, ended.detail)))
    texts = [tokenizer.text_of(episode.token_ids) for episode in ended.episodes]
    try:
        scores_G = score_episodes(task, ended.episodes, texts, pool.rewards, lambda: None)
    except RewardFailed as error:
        failure = failure_of(task, WORKER, FailureReason.REWARD, str(error))
        nothing_G = [(None,) * len(pool.rewards)] * len(texts)
        group = group_of(task, WORKER, ended.episodes, texts, nothing_G)
        return Answer(encode(failure), unrewarded=encode(group))
    failed = [str(one) for scores in scores_G for one in scores if isinstance(one, RewardFailed)]
    rewards_G = [settle(scores, on_failure) for scores in scores_G]
    group = group_of(task, WORKER, ended.episodes, texts, rewards_G)
    return Answer(encode(group), tuple(dict.fromkeys(failed)))
