"""Which reward functions a run has: names, weights and the hash of the code behind them."""

from pathlib import Path

from volley.learner.settings import RewardSettings
from volley.learner.user_code import hash_user_code
from volley.schemas.run_spec import BUILTIN_REWARDS, RewardLimits, RewardSpec


def read_reward_specs(settings: RewardSettings, code_folder: Path) -> tuple[RewardSpec, ...]:
    """The run's reward functions in order; raises Stop naming the function and the fix."""
    return tuple(
        RewardSpec(
            name, weight, hash_user_code("reward.functions", name, BUILTIN_REWARDS, code_folder)
        )
        for name, weight in zip(settings.functions, settings.function_weights, strict=True)
    )


def reward_limits(settings: RewardSettings) -> RewardLimits:
    """What workers allow these functions."""
    return RewardLimits(
        timeout_s=settings.timeout_s,
        max_memory_bytes=settings.max_memory_bytes,
        num_processes=settings.num_processes,
        on_failure=None if settings.on_failure == "skip" else settings.on_failure,
    )
