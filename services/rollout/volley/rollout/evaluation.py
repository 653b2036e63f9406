"""A model folder's rewards on a data file, by the same engine and rewards that a run uses."""

import json
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from msgspec import Struct
from safetensors.torch import load_file

from volley.rollout.device import choose_device
from volley.rollout.engine_transformers import TransformersEngine
from volley.rollout.environment_code import load_environment
from volley.rollout.episode import Episode
from volley.rollout.episodes import EpisodeRules, Episodes, EpisodesFailed, EpisodesRequest
from volley.rollout.reward_code import load_rewards
from volley.rollout.rewards import Reward, RewardFailed
from volley.rollout.tokenizer import Tokenizer
from volley.schemas.groups import Version
from volley.schemas.run_spec import EnvironmentSpec, RewardSpec, SamplingSpec
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes

logger = logging.getLogger(__name__)

NUM_SHOWN = 5
UNLIMITED_CONTEXT_LENGTH = 2**20
ENVIRONMENT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is evaluated, and how."""

    model_folder: Path
    data: Path
    reward: str
    environment: str | None
    environment_options: dict[str, object]
    max_turns: int
    code_folder: Path
    max_completion_length: int
    samples_per_prompt: int
    seed: int
    device: str
    num_threads: int
    max_num_seqs: int


class ScoredSample(Struct, frozen=True):
    """One answer, for the eye."""

    prompt: str | list[dict[str, str]]
    completion: str
    turns: tuple[str, ...]
    """What the model said of it."""
    insertions: tuple[str, ...]
    """What its environment inserted between them."""
    reward: float | None


class Evaluation(Struct, frozen=True):
    """Mean rewards; prompts for which the reward is None are left out."""

    sampled: float
    """At temperature 1, over all samples of all prompts."""
    sampled_stderr: float
    """Of the mean over prompts."""
    greedy: float
    prompts: int
    metrics: dict[str, float]
    """Means of what the environment counts, at temperature 1."""
    samples: tuple[ScoredSample, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: str | list[dict[str, str]]
    prompt_ids: tuple[int, ...]
    columns: dict[str, object]


def evaluate_folder(settings: EvaluationSettings) -> Evaluation:
    """Sample and score every row of the data; raises Stop naming what cannot be used."""
    torch.set_num_threads(settings.num_threads)
    tokenizer = Tokenizer(settings.model_folder)
    rows = _read_rows(settings.data, tokenizer)
    reward = _load_reward(settings)
    engine = _load_engine(settings)
    episodes = Episodes(engine, tokenizer, engine.vocab_size, _episode_rules(settings))
    sampling = SamplingSpec(
        num_generations=settings.samples_per_prompt,
        temperature=1.0,
        max_completion_length=settings.max_completion_length,
        stop_token_ids=_stop_token_ids(settings.model_folder, tokenizer),
    )
    greedy = SamplingSpec(1, 0.0, sampling.max_completion_length, sampling.stop_token_ids)
    sampled_episodes = _sample(episodes, rows, sampling, settings.seed)
    greedy_episodes = _sample(episodes, rows, greedy, settings.seed)
    episodes.close()
    engine.close()
    sampled_rows = _score(rows, sampled_episodes, tokenizer, reward)
    greedy_rows = _score(rows, greedy_episodes, tokenizer, reward)
    sampled_means = _means(sampled_rows)
    return Evaluation(
        sampled=statistics.fmean(sampled_means),
        sampled_stderr=_standard_error(sampled_means),
        greedy=statistics.fmean(_means(greedy_rows)),
        prompts=len(rows),
        metrics=_mean_metrics(sampled_episodes),
        samples=tuple(samples[0] for samples in sampled_rows[:NUM_SHOWN]),
    )


def _read_rows(data: Path, tokenizer: Tokenizer) -> list[_Row]:
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        prompts = [row.pop("prompt") for row in rows]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise Stop(
            ExitCode.CONFIG, f"{data}: one JSON object with 'prompt' a line is needed: {error!r}"
        ) from error
    if not rows:
        raise Stop(ExitCode.CONFIG, f"{data}: no prompts")
    return [
        _Row(prompt, tokenizer.prompt_ids(prompt), row)
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def _load_reward(settings: EvaluationSettings) -> Reward:
    specs = [RewardSpec(settings.reward, 1.0, _file_hash(settings.reward, settings))]
    return load_rewards(specs, settings.code_folder)[0]


def _episode_rules(settings: EvaluationSettings) -> EpisodeRules | None:
    name = settings.environment
    if name is None:
        return None
    spec = EnvironmentSpec(
        name,
        _file_hash(name, settings),
        settings.environment_options,
        settings.max_turns,
        ENVIRONMENT_TIMEOUT_S,
    )
    opens = load_environment(spec, settings.code_folder)
    return EpisodeRules(opens, spec.max_turns, spec.timeout_s)


def _file_hash(name: str, settings: EvaluationSettings) -> str | None:
    """Of the code as it is: nobody else's is to be met."""
    module, colon, _ = name.partition(":")
    file = settings.code_folder / f"{module.replace('.', '/')}.py"
    return hash_bytes(file.read_bytes()) if colon and file.is_file() else None


def _load_engine(settings: EvaluationSettings) -> TransformersEngine:
    folder = settings.model_folder
    config = _read_json(folder / "config.json")
    dtype = str(config.get("dtype") or "float32")
    context_length = config.get("max_position_embeddings")
    engine = TransformersEngine(
        folder,
        dtype,
        choose_device(settings.device),
        max(settings.max_num_seqs, settings.samples_per_prompt),
        context_length if isinstance(context_length, int) else UNLIMITED_CONTEXT_LENGTH,
    )
    tensors = {
        name: tensor.to(getattr(torch, dtype))
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    engine.load(tensors, Version(0, 0))
    return engine


def _stop_token_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every id that ends a completion: the model's and the tokenizer's."""
    ids: set[object] = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        found = _read_json(folder / name).get("eos_token_id")
        ids.update(found if isinstance(found, list) else [found])
    return tuple(sorted(token for token in ids if isinstance(token, int)))


def _read_json(file: Path) -> dict[str, object]:
    """Content of a file that may be absent."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _sample(
    episodes: Episodes, rows: Sequence[_Row], sampling: SamplingSpec, seed: int
) -> list[tuple[Episode, ...]]:
    """Episodes of each row, in the order of the rows."""
    for index, row in enumerate(rows):
        episodes.begin(
            EpisodesRequest(
                *(str(index), row.prompt, row.prompt_ids, row.columns, seed + index, sampling)
            )
        )
    found: dict[str, tuple[Episode, ...]] = {}
    while len(found) < len(rows):
        ended = episodes.step().ended
        for one in ended:
            if isinstance(one, EpisodesFailed):
                raise Stop(ExitCode.CONFIG, f"prompt {one.id}: {one.detail}")
            found[one.id] = one.episodes
        if ended:
            logger.info("sampled %d of %d prompts", len(found), len(rows))
    return [found[str(index)] for index in range(len(rows))]


def _score(
    rows: Sequence[_Row],
    episodes: Sequence[Sequence[Episode]],
    tokenizer: Tokenizer,
    reward: Reward,
) -> list[list[ScoredSample]]:
    """Samples of each row, in the order of the rows; an episode that failed has no reward."""
    scored = []
    for row, ended in zip(rows, episodes, strict=True):
        texts = [tokenizer.text_of(episode.token_ids) for episode in ended]
        try:
            rewards = reward.score(row.prompt, texts, row.columns)
        except RewardFailed as error:
            raise Stop(ExitCode.CONFIG, str(error)) from error
        scored.append(
            [
                ScoredSample(
                    prompt=row.prompt,
                    completion=text,
                    turns=tuple(episode.turns),
                    insertions=tuple(episode.insertions),
                    reward=None if episode.failure else x,
                )
                for episode, text, x in zip(ended, texts, rewards, strict=True)
            ]
        )
    return scored


def _means(rows: Sequence[Sequence[ScoredSample]]) -> list[float]:
    """Mean reward of each row that has one."""
    rewards = [[s.reward for s in samples if s.reward is not None] for samples in rows]
    means = [statistics.fmean(some) for some in rewards if some]
    if not means:
        raise Stop(ExitCode.CONFIG, "the reward is None for every completion")
    return means


def _standard_error(means: Sequence[float]) -> float:
    return statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0


def _mean_metrics(episodes: Sequence[Sequence[Episode]]) -> dict[str, float]:
    """By name, over the episodes that have it."""
    numbers: dict[str, list[float]] = defaultdict(list)
    for episode in chain.from_iterable(episodes):
        for name, number in episode.metrics.items():
            numbers[name].append(number)
    return {name: statistics.fmean(some) for name, some in sorted(numbers.items())}
