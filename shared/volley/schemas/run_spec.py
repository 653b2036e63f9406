"""What a worker must know to join a run: the answer of `GET /v1/run`."""

from msgspec import Struct

BUILTIN_REWARDS = ("exact_match", "answer_match", "f1", "format", "maths")
"""Names of the reward functions that every worker brings."""
BUILTIN_ENVIRONMENTS = ("search", "tools")
"""Names of the environments that every worker brings."""


class Blob(Struct, frozen=True):
    """Immutable bytes that the learner serves under `/v1/blobs/{hash}`."""

    hash: str
    """BLAKE3, hexadecimal."""
    num_bytes: int


class ModelFile(Struct, frozen=True):
    """A configuration or tokenizer file of the model folder; never weights."""

    name: str
    blob: Blob


class SamplingSpec(Struct, frozen=True):
    """Every field that shapes the sampling distribution, so that no engine default slips in."""

    num_generations: int
    temperature: float
    max_completion_length: int
    stop_token_ids: tuple[int, ...]
    """Resolved once, by the learner; the ending one is part of the completion and trained."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class RewardSpec(Struct, frozen=True):
    """A reward function by name; the code itself is on each worker and must have this hash."""

    name: str
    """`module:function`, or the bare name of a built-in one."""
    weight: float
    file_hash: str | None
    """BLAKE3 of the module's file; None for a built-in function."""


class RewardLimits(Struct, frozen=True):
    """What each worker allows the reward functions that are not built in."""

    timeout_s: float
    """Of one call, with all completions of a group or, if that failed, with one."""
    max_memory_bytes: int
    """Of one reward process."""
    num_processes: int
    on_failure: float | None
    """The reward of a completion whose own call failed; None leaves it out of the training."""


class ToolSpec(Struct, frozen=True):
    """A function that the model may call; the code itself is on each worker."""

    name: str
    """`module:function`."""
    file_hash: str
    """BLAKE3 of the module's file."""
    schema: dict[str, object]
    """What the chat template shows of it to the model: JSON schema, as transformers makes it."""


class ChatFrame(Struct, frozen=True):
    """What a chat template writes around messages that answer the assistant.

    said + opening + content [+ between + content ...] + closing + what the assistant says next
    """

    opening: str
    """The token that ends the assistant's turn is the first of it."""
    between: str | None
    """None: the template takes one message at a time."""
    closing: str


class EnvironmentSpec(Struct, frozen=True):
    """What answers the model between its turns; the code itself is on each worker."""

    name: str
    """`module:Class`, or the bare name of a built-in one."""
    file_hash: str | None
    """BLAKE3 of the module's file; None for a built-in class."""
    options: dict[str, object]
    """Keyword arguments of the class."""
    max_turns: int
    timeout_s: float
    """Of one answer."""
    tools: tuple[ToolSpec, ...] = ()
    """Of the environment `tools`."""
    frames: dict[str, ChatFrame | str] = {}
    """By the role of the messages that it answers with; a text says why there is none."""


class RunSpec(Struct, frozen=True):
    """A run, as far as workers are concerned."""

    schema_version: int
    run: str
    model_files: tuple[ModelFile, ...]
    dtype: str
    """Of the published tensors, as torch spells it: float32, bfloat16."""
    max_context_length: int
    """Prompt and completion together, in tokens."""
    vocab_size: int
    sampling: SamplingSpec
    rewards: tuple[RewardSpec, ...]
    reward_limits: RewardLimits
    environment: EnvironmentSpec | None
    """None: an episode is a single turn."""
    code_folder: str
    """Where the learner found the user's code; a hint for workers on the same machine."""
    redis_url: str
    """With credentials: this answer is a secret."""
    lease_s: float
    max_staleness: int
    max_body_bytes: int
