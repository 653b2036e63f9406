"""The one TOML of a run, as frozen models; the words under a field are its help.

Precedence: defaults < file < VOLLEY_SECTION__KEY environment < `--set section.key=value`.
Keys follow TRL's GRPOConfig where it has one. Whatever is wrong raises SettingsError, which names
the key and the fix.
"""

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from volley.learner.alarm_settings import AlarmsSettings
from volley.learner.cold_start_settings import ColdStartSettings
from volley.learner.complaints import Sections, explain, nearest
from volley.learner.environment_settings import EnvironmentSettings
from volley.learner.evaluation_settings import EvaluationSettings
from volley.learner.keeping_settings import CheckpointSettings, WeightsSettings
from volley.learner.loss_settings import LossSettings
from volley.learner.section import PositiveFloat, PositiveInt, Section
from volley.learner.tracking_settings import TrackingSettings
from volley.telemetry.stops import ExitCode, Stop

MIN_REWARD_BYTES = 64 * 2**20
"""Python itself needs a part of it."""

# Read by the processes themselves, never part of the TOML.
PROCESS_VARIABLES = (
    "VOLLEY_TOKEN",
    "VOLLEY_TOKEN_FILE",
    "VOLLEY_ADMIN_TOKEN",
    "VOLLEY_ADMIN_TOKEN_FILE",
    "VOLLEY_REDIS_URL",
    "VOLLEY_REDIS_PASSWORD_FILE",
    "VOLLEY_FAILPOINT",
)

Tree = dict[str, object]


class SettingsError(Stop):
    """The configuration cannot be used; the message names the key and says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(ExitCode.CONFIG, message)


class RunSettings(Section):
    name: str = "run"
    """Starts the name of the run's folder."""
    folder: Path = Path("runs")
    """Where run folders are made."""
    steps: PositiveInt = 100
    """Optimiser steps to take."""
    seed: int = 0
    """Of the prompt order, the sampling and the learner."""


class ModelSettings(Section):
    path: str
    """A Hugging Face model id or a folder, for any AutoModelForCausalLM."""
    revision: str | None = None
    """Branch, tag or commit of a model id."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the forward and of the published tensors; the masters are always float32."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward; left out: for models above 1e9 parameters."""
    lora_r: PositiveInt | None = None
    """Rank of LoRA adapters, which alone are trained; left out: the whole model is."""
    lora_alpha: PositiveInt = 32
    """Adapters' changes are scaled by lora_alpha / lora_r."""
    lora_target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the linear maps that get adapters: ["q_proj", "v_proj"]; or those of all layers."""
    torch_compile: bool = False
    """Compile the layers: faster after a slow first step; a resume may differ in the last bits."""
    attn_implementation: str = "sdpa"
    """As transformers names it: sdpa, eager, flash_attention_2."""
    chat_template: Path | None = None
    """Jinja file to be used instead of the tokenizer's own template."""
    chat_template_kwargs: dict[str, object] = Field(default_factory=dict)
    """What the template is told beside the messages: {enable_thinking = false}."""


class DataSettings(Section):
    train: Path
    """JSONL with a `prompt` (text or chat messages) and any other columns."""


class SamplingSettings(Section):
    num_generations: PositiveInt = 8
    """G, completions per prompt: at least 2."""
    temperature: PositiveFloat = 1.0
    max_completion_length: PositiveInt = 256
    """Tokens of one completion, at most."""
    stop_token_ids: tuple[int, ...] = ()
    """Beside the end-of-sequence ids of the model."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        if self.num_generations == 1:
            raise ValueError(
                "num_generations = 1 leaves nothing to compare a completion with, so its "
                "advantage is 0 or undefined: use at least 2 (8 is usual)"
            )
        return self

    @model_validator(mode="after")
    def _samples_the_distribution_that_is_trained(self) -> Self:
        for key, neutral in NEUTRAL_SAMPLING.items():
            if getattr(self, key) != neutral:
                raise ValueError(
                    f"{key} = {getattr(self, key)} changes the sampling distribution beyond the "
                    f"temperature, and the loss does not correct for that yet: remove {key} or "
                    f"set it to {neutral}"
                )
        return self


NEUTRAL_SAMPLING: Mapping[str, float] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class RewardSettings(Section):
    functions: tuple[str, ...] = ("exact_match",)
    """`module:function` beside the config file, or the bare name of a built-in one."""
    weights: tuple[float, ...] | None = None
    """One per function; left out: 1 each."""
    timeout_s: PositiveFloat = 60.0
    """Seconds for one call, with a whole group or, if that failed, with one completion."""
    max_memory_bytes: Annotated[int, Field(ge=MIN_REWARD_BYTES)] = 4 * 2**30
    """Data of one reward process, at most."""
    num_processes: PositiveInt = 2
    """Reward processes of each worker."""
    on_failure: Literal["skip"] | Annotated[float, Field(allow_inf_nan=False)] = "skip"
    """Reward of a completion that fails alone, too; `skip` leaves it out of mean, std and loss."""
    overlong_buffer_tokens: Annotated[int, Field(ge=0)] = 0
    """Last tokens before max_completion_length over which a penalty grows; 0 turns it off."""
    overlong_penalty: PositiveFloat = 1.0
    """Taken off the reward of a completion that fills the buffer."""

    @model_validator(mode="after")
    def _one_weight_per_function(self) -> Self:
        if not self.functions:
            raise ValueError("functions is empty: name at least one reward function")
        if self.weights is not None and len(self.weights) != len(self.functions):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.functions)} functions: give one each"
            )
        return self

    @property
    def function_weights(self) -> tuple[float, ...]:
        return self.weights or (1.0,) * len(self.functions)


class OptimSettings(Section):
    groups_per_step: PositiveInt = 32
    """Collected groups that make one step."""
    max_refill_groups: Annotated[int, Field(ge=0)] = 0
    """Dynamic sampling: groups beyond these, at most, to make up for those without a signal."""
    learning_rate: PositiveFloat = 1e-6
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the decay after the warm-up, over run.steps."""
    min_lr_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the learning rate at which the decay ends."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    adam_epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    micro_batch_tokens: PositiveInt = 16384
    """Padded tokens in one forward and backward, at most (one sequence always fits)."""


class QueueSettings(Section):
    redis_url: str | None = None
    """redis://[:password@]host:port/db; left out: `volley run` starts a Redis of its own."""
    max_staleness: Annotated[int, Field(ge=0)] = 1
    """Versions that a trained token may lag behind the learner."""
    lease_s: PositiveFloat = 60.0
    """Seconds without progress after which a task is given to another worker."""
    max_attempts: PositiveInt = 5
    """Failed or stale answers after which a prompt number is skipped."""
    max_body_bytes: PositiveInt = 64 * 2**20
    """Largest message that is accepted."""


class ServerSettings(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 takes a free port, which is printed and written to the run folder."""


class DevicesSettings(Section):
    learner: str = "auto"
    """cpu, cuda:0, ...; auto takes the first accelerator there is."""
    rollout: tuple[str, ...] = ("auto",)
    """One worker process per entry, on that device."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What the workers sample with; auto: vllm where it is installed."""
    rollout_options: tuple[str, ...] = ()
    """More options of `volley rollout`, as on its command line: ["--max-num-seqs=64"]."""
    threads: PositiveInt = 1
    """CPU threads of each process; more than the cores over processes only slows down."""


class LoggingSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """At DEBUG prompts, completions and what a user's code says may be in the logs."""
    format: Literal["json", "text"] = "text"
    """For machines, an object a line, or for people."""
    sample_every: PositiveInt = 10
    """Steps between two sample trajectories in the progress display."""


class Settings(Section):
    """Everything that decides a run."""

    model: ModelSettings
    data: DataSettings
    cold_start: ColdStartSettings | None = None
    evaluation: EvaluationSettings | None = None
    run: RunSettings = RunSettings()
    sampling: SamplingSettings = SamplingSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    reward: RewardSettings = RewardSettings()
    loss: LossSettings = LossSettings()
    optim: OptimSettings = OptimSettings()
    queue: QueueSettings = QueueSettings()
    weights: WeightsSettings = WeightsSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    alarms: AlarmsSettings = AlarmsSettings()
    tracking: TrackingSettings = TrackingSettings()
    server: ServerSettings = ServerSettings()
    devices: DevicesSettings = DevicesSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _evaluates_groups_that_fit(self) -> Self:
        asked = self.evaluation.num_generations if self.evaluation else None
        if asked is not None and asked > self.sampling.num_generations:
            raise ValueError(
                f"evaluation.num_generations = {asked} is more than sampling.num_generations = "
                f"{self.sampling.num_generations}, for which workers have room: lower it"
            )
        return self

    @model_validator(mode="after")
    def _leaves_room_before_the_overlong_buffer(self) -> Self:
        room = self.sampling.max_completion_length
        if self.reward.overlong_buffer_tokens >= room:
            raise ValueError(
                f"reward.overlong_buffer_tokens = {self.reward.overlong_buffer_tokens} leaves "
                f"no length without a penalty below sampling.max_completion_length = {room}: set "
                "a smaller one (an eighth of it is usual)"
            )
        return self

    @model_validator(mode="after")
    def _refills_what_is_filtered(self) -> Self:
        if self.optim.max_refill_groups > 0 and (self.loss.beta > 0 or self.loss.entropy_coef > 0):
            raise ValueError(
                f"optim.max_refill_groups = {self.optim.max_refill_groups} makes up for groups "
                "that are filtered, and with loss.beta or loss.entropy_coef none is: set it to 0, "
                "or those two"
            )
        return self


def load_settings(
    config: Path,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """The run's settings, its relative paths resolved against the folder of `config`."""
    tree = _read_toml(config)
    for name, value in environment.items():
        if name.startswith("VOLLEY_") and name not in PROCESS_VARIABLES:
            _overlay(tree, _key_of_variable(name), value)
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}: write it as section.key=value")
        _overlay(tree, _key_of_option(override, name.strip()), value.strip())
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(f"{config}:\n{explain(error, SECTIONS)}") from error
    return _read_own_loss(_resolve_paths(settings, config.parent.resolve()), config.parent)


def _read_toml(config: Path) -> Tree:
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{config}: {error.strerror}: give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f'{config}: not TOML: {error}: mend it (text is "quoted")') from error


def _key_of_variable(name: str) -> tuple[str, str]:
    """Section and key that a variable sets."""
    keys = {f"VOLLEY_{section}__{key}".upper(): (section, key) for section, key in _all_keys()}
    if name not in keys:
        known = (*PROCESS_VARIABLES, *keys)
        raise SettingsError(f"{name}: no such setting{nearest(name, known)}")
    return keys[name]


def _key_of_option(override: str, name: str) -> tuple[str, str]:
    """Section and key that `--set` names."""
    section, _, key = name.partition(".")
    if key in SECTIONS.get(section, ()):
        return section, key
    if key and section in SECTIONS:
        # Its name, beside the others', would make all of its own keys look alike.
        hint = nearest(key, SECTIONS[section], prefix=f"{section}.")
    else:
        hint = nearest(name, (f"{section}.{key}" for section, key in _all_keys()))
    raise SettingsError(f"--set {override}: no such setting{hint}")


def _all_keys() -> Iterator[tuple[str, str]]:
    return ((section, key) for section, keys in SECTIONS.items() for key in keys)


def _overlay(tree: Tree, path: tuple[str, str], text: str) -> None:
    """Put `text` into `tree` at [section, key], read as TOML where it is TOML."""
    section_name, key = path
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    section = tree.setdefault(section_name, {})
    if isinstance(section, dict):
        section[key] = value


def _keys_of(field: FieldInfo) -> list[str]:
    """Of the section that the field is, or may be."""
    kinds = (field.annotation, *get_args(field.annotation))
    [section] = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    return list(section.model_fields)


SECTIONS: Sections = {name: _keys_of(field) for name, field in Settings.model_fields.items()}


def _resolve_paths(settings: Settings, folder: Path) -> Settings:
    model_path = folder / settings.model.path
    is_folder = settings.model.path.startswith((".", "/", "~")) or model_path.is_dir()
    model = settings.model.model_copy(
        update=({"path": str(model_path.expanduser())} if is_folder else {})
        | {"chat_template": settings.model.chat_template and folder / settings.model.chat_template}
    )
    data = settings.data.model_copy(update={"train": folder / settings.data.train})
    cold_start = settings.cold_start and settings.cold_start.model_copy(
        update={"data": folder / settings.cold_start.data}
    )
    evaluation = settings.evaluation and settings.evaluation.model_copy(
        update={"data": folder / settings.evaluation.data}
    )
    sections = {"model": model, "data": data, "cold_start": cold_start, "evaluation": evaluation}
    return settings.model_copy(update=sections)


def _read_own_loss(settings: Settings, folder: Path) -> Settings:
    """With the text of the user's own loss, so that whoever has the settings has the loss."""
    module, colon, _ = settings.loss.loss_type.partition(":")
    if not colon or settings.loss.loss_source is not None:
        return settings
    path = folder / f"{module.replace('.', '/')}.py"
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"loss.loss_type = {settings.loss.loss_type!r} needs {path}: {error}: put the module "
            "beside the config file"
        ) from error
    return settings.model_copy(
        update={"loss": settings.loss.model_copy(update={"loss_source": source})}
    )
