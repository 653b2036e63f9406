"""A GRPO run in one process whose sampler gets each version of the weights some versions late.

Learner, engine and reward are the real ones; there is no queue, so the lag is exact: step s is
trained on what version s - lag has sampled (version 0 until there is one).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from volley.learner.policy import Policy
from volley.learner.prompts import Prompt, read_rows, tokenise_rows
from volley.learner.settings import Settings
from volley.learner.tasks import sampling_seed
from volley.learner.update import Update
from volley.rollout.builtin_rewards import BUILTIN
from volley.rollout.engine import Sample, SampleRequest
from volley.rollout.engine_transformers import TransformersEngine
from volley.rollout.tokenizer import Tokenizer
from volley.schemas.groups import (
    SCHEMA_VERSION,
    Group,
    Trajectory,
    Version,
    pack_logprobs,
    pack_token_ids,
)
from volley.schemas.run_spec import SamplingSpec

REWARD = BUILTIN["exact_match"]
EPOCH = 1
HELD_OUT_SEED = 10**9


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a run was about."""

    num_samples: int
    """Seen so far, this step's included."""
    metrics: dict[str, float | None]


class HeldBackRun:
    """One run of the sort demo's settings; `lag` is in versions."""

    def __init__(self, settings: Settings, held_out: Path, lag: int) -> None:
        self._settings = settings
        self._policy = policy = Policy.load(settings.model, "cpu")
        self._update = Update(policy, settings)
        self._sampler = _Sampler(settings, policy)
        self._train, self._held_out = (
            tokenise_rows(read_rows(data), policy.tokenise, policy.context_length, seed)
            for data, seed in ((settings.data.train, settings.run.seed), (held_out, 0))
        )
        self._versions: deque[tuple[Version, dict[str, torch.Tensor]]] = deque(maxlen=lag + 1)

    def steps(self) -> Iterator[Step]:
        """Take all steps."""
        num_groups = self._settings.optim.groups_per_step
        num_samples = 0
        for step in range(self._settings.run.steps):
            head = Version(EPOCH, step)
            self._versions.append((head, _copy_of(self._policy)))
            numbers = range(step * num_groups, (step + 1) * num_groups)
            prompts = [self._train[number] for number in numbers]
            groups = self._sampler.sample(prompts, numbers, *self._versions[0])
            result = self._update.step(groups, head)
            num_samples += sum(len(group.trajectories) for group in groups)
            yield Step(num_samples, result.metrics)

    def held_out(self) -> float:
        """Mean reward of the newest weights on prompts that were never trained."""
        prompts = [self._held_out[number] for number in range(len(self._held_out))]
        numbers = range(HELD_OUT_SEED, HELD_OUT_SEED + len(prompts))
        groups = self._sampler.sample(prompts, numbers, Version(EPOCH, 0), _copy_of(self._policy))
        return fmean(one.rewards[0] or 0.0 for group in groups for one in group.trajectories)


class _Sampler:
    """A worker without its queue."""

    def __init__(self, settings: Settings, policy: Policy) -> None:
        folder = Path(settings.model.path)
        self._seed = settings.run.seed
        self._sampling = SamplingSpec(
            num_generations=settings.sampling.num_generations,
            temperature=settings.sampling.temperature,
            max_completion_length=settings.sampling.max_completion_length,
            stop_token_ids=policy.stop_token_ids(),
        )
        num_seqs = settings.optim.groups_per_step * settings.sampling.num_generations
        self._tokenizer = Tokenizer(folder)
        self._engine = TransformersEngine(
            *(folder, settings.model.dtype, "cpu", num_seqs, policy.context_length)
        )

    def sample(
        self,
        prompts: Sequence[Prompt],
        numbers: Sequence[int],
        version: Version,
        tensors: dict[str, torch.Tensor],
    ) -> list[Group]:
        """A group for each prompt, all by these weights."""
        self._engine.load(tensors, version)
        for prompt, number in zip(prompts, numbers, strict=True):
            seed = sampling_seed(self._seed, number, attempt=0)
            self._engine.add(SampleRequest(str(number), prompt.prompt_ids, seed, self._sampling))
        sampled: dict[int, tuple[Sample, ...]] = {}
        while len(sampled) < len(prompts):
            finished = self._engine.step().finished
            sampled |= {int(group.request_id): group.samples for group in finished}
        return [
            self._group(prompt, number, sampled[number])
            for prompt, number in zip(prompts, numbers, strict=True)
        ]

    def _group(self, prompt: Prompt, number: int, samples: Sequence[Sample]) -> Group:
        texts = [self._tokenizer.text_of(sample.token_ids) for sample in samples]
        rewards = REWARD.score(prompt.prompt, texts, prompt.columns)
        return Group(
            schema_version=SCHEMA_VERSION,
            run="held-back",
            number=number,
            attempt=0,
            worker="bench",
            prompt_ids=prompt.prompt_ids,
            trajectories=tuple(map(_trajectory, samples, texts, rewards)),
        )


def _trajectory(sample: Sample, text: str, reward: float | None) -> Trajectory:
    return Trajectory(
        token_bytes=pack_token_ids(sample.token_ids),
        logprob_bytes=pack_logprobs(sample.logprobs),
        version_spans=sample.version_spans,
        inserted_spans=(),
        stop_reason=sample.stop_reason,
        text=text,
        rewards=(reward,),
    )


def _copy_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.published_tensors().items()}
