"""What never changes over the life of a run, and what may change between two of its steps.

Prompt numbers name rows of one data file, groups are shaped by the sampling, a checkpoint belongs
to one model: with any of them changed a resume would go on with something else under the old
name, so it is refused. The loss, the optimiser and the number of steps may change; every logged
step says under which hash of them it was taken.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

import msgspec
from msgspec import Struct

from volley.learner.run_folder import RunFolder
from volley.learner.settings import Settings, load_settings
from volley.schemas.groups import SCHEMA_VERSION
from volley.schemas.run_spec import EnvironmentSpec, RewardSpec, ToolSpec
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes

logger = logging.getLogger(__name__)

OF_THE_STEP = ("run", "model", "sampling", "environment", "reward", "loss", "optim")
"""Sections that a step's outcome depends on."""
OF_THE_PLACE = {"run": {"name", "folder"}, "model": {"path", "revision"}}
"""Keys of these sections that say where something lies; what lies there is hashed."""
FROZEN_KEYS = (
    *("model.dtype", "model.lora_r", "model.lora_alpha", "model.lora_target_modules"),
    *("model.chat_template_kwargs", "sampling", "environment", "reward.functions", "run.seed"),
)
ELSEWHERE = "give what it began with, or start another run with --fresh"


class Identity(Struct, frozen=True):
    """`run.json`: what makes two learners work on the same run."""

    schema_version: int
    run: str
    data_hash: str
    code_hash: str
    start_root: str
    """Of the model that the run began with."""
    frozen: dict[str, object]
    """Settings that cannot change, by key."""

    def check(self, now: "Identity") -> None:
        """Raise Stop, naming it, if anything differs that must not."""
        for key, recorded in self.frozen.items():
            if now.frozen.get(key) != recorded:
                raise Stop(
                    ExitCode.CONFIG,
                    f"{key} is {now.frozen.get(key)}, run {self.run} began with {recorded}: "
                    f"{ELSEWHERE}",
                )
        for what, recorded_hash, hash_now in (
            ("data.train", self.data_hash, now.data_hash),
            ("reward.functions, environment.name: their code", self.code_hash, now.code_hash),
            ("model.path: the model", self.start_root, now.start_root),
        ):
            if recorded_hash != hash_now:
                raise Stop(
                    ExitCode.CONFIG,
                    f"{what} has changed since run {self.run} began (hash {recorded_hash[:12]}, "
                    f"now {hash_now[:12]}): {ELSEWHERE}",
                )


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Hashes of what a step depends on beside its groups."""

    config: str
    code: str
    data: str


def identify(
    settings: Settings,
    folder: RunFolder,
    start_root: str,
    rewards: Sequence[RewardSpec],
    environment: EnvironmentSpec | None,
) -> Identity:
    """What the run is, written down at its first start; raises Stop where it is another one."""
    now = identity_of(settings, folder.run, start_root, rewards, environment)
    if folder.has_state:
        msgspec.convert(folder.read_json("run.json"), Identity).check(now)
    else:
        folder.write_json("run.json", msgspec.to_builtins(now))
    return now


def identity_of(
    settings: Settings,
    run: str,
    start_root: str,
    rewards: Sequence[RewardSpec],
    environment: EnvironmentSpec | None,
) -> Identity:
    """What a run of that name would be if it began now."""
    environments, tools = ((environment,), environment.tools) if environment else ((), ())
    return Identity(
        schema_version=SCHEMA_VERSION,
        run=run,
        data_hash=hash_bytes(settings.data.train.read_bytes()),
        code_hash=hash_code((*rewards, *environments, *tools)),
        start_root=start_root,
        frozen=frozen_settings(settings),
    )


def keep_config(settings: Settings, folder: RunFolder, identity: Identity) -> Fingerprints:
    """The hashes for the log; what differs from the settings of the last start is said."""
    last = folder.path / "config.toml"
    if last.exists():
        for change in changed_settings(load_settings(last, environment={}), settings):
            logger.warning("from the next step on %s", change)
    config_hash = hash_config(settings)
    folder.write_config(settings, config_hash)
    return Fingerprints(config_hash, identity.code_hash, identity.data_hash)


def frozen_settings(settings: Settings) -> dict[str, object]:
    """The settings that cannot change over a run's life, by key, as JSON has them."""
    tree = settings.model_dump(mode="json")
    frozen: dict[str, object] = {}
    for name in FROZEN_KEYS:
        section, _, key = name.partition(".")
        chosen = {key: tree[section][key]} if key else tree[section]
        frozen |= {f"{section}.{key}": value for key, value in chosen.items()}
    return frozen


def hash_config(settings: Settings) -> str:
    """A short name for all settings that a step's outcome depends on."""
    tree = settings.model_dump(mode="json")
    chosen = {
        section: {
            key: value
            for key, value in tree[section].items()
            if key not in OF_THE_PLACE.get(section, ())
        }
        for section in OF_THE_STEP
    }
    return hash_bytes(json.dumps(chosen, sort_keys=True).encode())[:16]


def changed_settings(before: Settings, after: Settings) -> list[str]:
    """What differs for a step, a line each: `optim.learning_rate: 1e-06 -> 3e-06`."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return [
        f"{section}.{key}: {_shown(old[section].get(key))} -> {_shown(value)}"
        for section in OF_THE_STEP
        for key, value in new[section].items()
        if old[section].get(key) != value and key not in OF_THE_PLACE.get(section, ())
    ]


def _shown(value: object) -> str:
    """On one line; a setting can be the text of a module."""
    return shorten(str(value), 100, placeholder=" ...")


def hash_code(specs: Sequence[RewardSpec | EnvironmentSpec | ToolSpec]) -> str:
    """One hash over the files that reward functions, environment and tools come from."""
    lines = [f"{spec.name} {spec.file_hash}\n" for spec in specs]
    return hash_bytes("".join(lines).encode())
