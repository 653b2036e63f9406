"""What workers and messages of a run must be like, derived from its settings and its model."""

from pathlib import Path

import msgspec

from volley.learner.evaluation_settings import EvaluationSettings
from volley.learner.policy import Policy
from volley.learner.reward_code import reward_limits
from volley.learner.settings import NEUTRAL_SAMPLING, Settings
from volley.learner.weight_store import WeightStore
from volley.schemas.codec import GroupLimits
from volley.schemas.groups import SCHEMA_VERSION
from volley.schemas.run_spec import EnvironmentSpec, ModelFile, RewardSpec, RunSpec, SamplingSpec


def describe_run(
    settings: Settings,
    policy: Policy,
    store: WeightStore,
    run: str,
    rewards: tuple[RewardSpec, ...],
    environment: EnvironmentSpec | None,
    code_folder: Path,
    redis_url: str,
) -> RunSpec:
    """What a worker joins with; the model's files are served by the store."""
    return RunSpec(
        schema_version=SCHEMA_VERSION,
        run=run,
        model_files=tuple(
            ModelFile(name, store.add(content)) for name, content in policy.model_files().items()
        ),
        dtype=settings.model.dtype,
        max_context_length=policy.context_length,
        vocab_size=policy.vocab_size,
        sampling=sampling_spec(settings, policy),
        rewards=rewards,
        reward_limits=reward_limits(settings.reward),
        environment=environment,
        code_folder=str(code_folder),
        redis_url=redis_url,
        lease_s=settings.queue.lease_s,
        max_staleness=settings.queue.max_staleness,
        max_body_bytes=settings.queue.max_body_bytes,
    )


def sampling_spec(settings: Settings, policy: Policy) -> SamplingSpec:
    """How completions are sampled, every field explicit."""
    sampling = settings.sampling
    return SamplingSpec(
        num_generations=sampling.num_generations,
        temperature=sampling.temperature,
        max_completion_length=sampling.max_completion_length,
        stop_token_ids=policy.stop_token_ids(sampling.stop_token_ids),
        **{key: getattr(sampling, key) for key in NEUTRAL_SAMPLING},
    )


def evaluation_samplings(
    evaluation: EvaluationSettings, sampling: SamplingSpec
) -> tuple[SamplingSpec, SamplingSpec]:
    """How held-out prompts are answered: at the sampling temperature, and greedily."""
    num_generations = evaluation.num_generations or sampling.num_generations
    return (
        msgspec.structs.replace(sampling, num_generations=num_generations),
        msgspec.structs.replace(sampling, num_generations=1, temperature=0.0),
    )


def group_limits(settings: Settings, vocab_size: int, run: str) -> GroupLimits:
    """What a group may look like."""
    return GroupLimits(
        run=run,
        num_generations=settings.sampling.num_generations,
        max_completion_length=settings.sampling.max_completion_length,
        num_rewards=len(settings.reward.functions),
        vocab_size=vocab_size,
        max_body_bytes=settings.queue.max_body_bytes,
    )
