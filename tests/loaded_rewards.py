"""Reward functions in the process of a test, which needs no protection from them."""

from collections.abc import Sequence
from pathlib import Path

from volley.rollout.builtin_rewards import BUILTIN
from volley.rollout.reward_code import import_rewards, is_trusted, read_reward_code
from volley.rollout.rewards import Reward
from volley.schemas.run_spec import RewardSpec


def load_rewards(specs: Sequence[RewardSpec], code_folder: Path) -> tuple[Reward, ...]:
    """All functions in order."""
    codes = {s.name: read_reward_code(s, code_folder) for s in specs if not is_trusted(s)}
    imported = import_rewards(tuple(codes.values()), code_folder)
    functions = {**BUILTIN, **dict(zip(codes, imported, strict=True))}
    return tuple(functions[spec.name] for spec in specs)
