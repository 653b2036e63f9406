"""Which reward functions a run has: ours by name, the user's as verified source."""

from collections.abc import Sequence
from pathlib import Path

from volley.rollout.builtin_rewards import APART, BUILTIN
from volley.rollout.rewards import Reward
from volley.rollout.user_code import Imports, UserCode, read_user_code
from volley.schemas.run_spec import RewardSpec
from volley.telemetry.stops import ExitCode, Stop


def is_trusted(spec: RewardSpec) -> bool:
    """Whether the function needs no process of its own; raises Stop where we do not have it."""
    if ":" in spec.name or spec.name in APART:
        return False
    if spec.name not in BUILTIN:
        raise Stop(ExitCode.CONFIG, f"reward {spec.name}: not built into this version")
    return True


def read_reward_code(spec: RewardSpec, code_folder: Path) -> UserCode:
    """The code of a function that is not trusted, its hash that of the learner; raises Stop."""
    if spec.name in APART:
        file = Path(__file__).with_name(f"{spec.name}.py")
        return UserCode("reward", f"{spec.name}:{spec.name}", str(file), file.read_bytes())
    return read_user_code("reward", spec.name, spec.file_hash, code_folder)


def import_rewards(codes: Sequence[UserCode], code_folder: Path) -> tuple[Reward, ...]:
    """The functions in order, imported into this process; raises Stop with the traceback."""
    imports = Imports(code_folder)
    return tuple(Reward(code.name, imports.take(code)) for code in codes)
