"""Memory that a run needs on each device, against what is free there.

A model that tensor parallelism splits is counted whole, on the first of its devices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from volley.launcher.doctor_devices import CPU, resolve_device
from volley.launcher.doctor_probe import Device
from volley.launcher.findings import Finding, bad, gib, ok, warn
from volley.launcher.sizing import (
    LOGITS_BYTES,
    ModelShape,
    activation_bytes_per_token,
    kv_bytes_per_token,
    learner_bytes,
    uses_checkpointing,
    weight_bytes,
)
from volley.learner.settings import Settings

KV_OPTION, SEQS_OPTION = "--kv-cache-memory-bytes", "--max-num-seqs"
# As volley.rollout has them, in a module that imports vLLM and in __main__.
VLLM_KV_BYTES, VLLM_KV_BYTES_CPU = 4 * 2**30, 256 * 2**20
MAX_NUM_SEQS = 256

PROCESS_BYTES = 2**29
"""Main memory of a process that has imported torch and an engine: 0.3 to 0.6 GiB were seen."""
CONTEXT_BYTES = 2**30
"""Of a GPU, for each process: context, kernels, workspaces. A rule of thumb."""
NUM_DOWNLOAD_BUFFERS = 2
"""A worker keeps them resident; see volley.rollout.weight_sync."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process takes of one device."""

    device: str
    owner: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a run takes in all."""

    shares: tuple[Share, ...]
    learner_device: str
    micro_batch_tokens: int
    activation_bytes_per_token: int
    """On the learner's device, beside its share."""
    checkpointing: bool

    def fixed_bytes(self, device: str) -> int:
        """Without activations."""
        return sum(share.num_bytes for share in self.shares if share.device == device)

    def bytes_per_token(self, device: str) -> int:
        """Of activations."""
        return self.activation_bytes_per_token if device == self.learner_device else 0


def need_of(
    settings: Settings, model: ModelShape, devices: Sequence[Device], *, vllm: bool
) -> Need:
    """What the run's processes take together; `vllm`: workers sample with it."""
    dtype = settings.model.dtype
    checkpointing = uses_checkpointing(model, settings.model.gradient_checkpointing)
    learner_device = resolve_device(settings.devices.learner, devices)
    shares = list(_learner_shares(settings, model, learner_device))
    for name in settings.devices.rollout:
        device = resolve_device(name, devices)
        shares.extend(_worker_shares(settings, model, device, vllm=vllm))
    return Need(
        tuple(shares),
        learner_device,
        settings.optim.micro_batch_tokens,
        activation_bytes_per_token(model, dtype, checkpointing=checkpointing),
        checkpointing,
    )


def judge_device(need: Need, device: str, num_free_bytes: int) -> Finding:
    """Free against needed; activations can be made fewer, the rest cannot."""
    subject = f"memory of {device}"
    fixed_bytes, per_token = need.fixed_bytes(device), need.bytes_per_token(device)
    needed_bytes = fixed_bytes + need.micro_batch_tokens * per_token
    found = f"{gib(num_free_bytes)} free, {gib(needed_bytes)} needed: {_listed(need, device)}"
    if needed_bytes <= num_free_bytes:
        return ok(subject, found)
    if fixed_bytes >= num_free_bytes:
        advice = (
            "list fewer processes on it in [devices], give workers a smaller "
            f"{KV_OPTION} in devices.rollout_options, or train a smaller model"
        )
        return bad(subject, found, advice)
    fitting = (num_free_bytes - fixed_bytes) // per_token
    advice = f"optim.micro_batch_tokens = {fitting} or less"
    if not need.checkpointing:
        advice += ", or model.gradient_checkpointing = true"
    return warn(subject, found, advice)


def _learner_shares(settings: Settings, model: ModelShape, device: str) -> Iterator[Share]:
    weights = weight_bytes(model, settings.model.dtype)
    trained = learner_bytes(model, settings.model.dtype, settings.model.lora_r)
    yield Share(device, "learner", trained + LOGITS_BYTES)
    if settings.loss.beta > 0 and settings.loss.kl_target == "reference":
        yield Share(device, "reference", weights)
    # The weights pass through main memory when they are published.
    yield Share(CPU, "learner", weights + PROCESS_BYTES)
    if device != CPU:
        yield Share(device, "learner", CONTEXT_BYTES)


def _worker_shares(
    settings: Settings, model: ModelShape, device: str, *, vllm: bool
) -> Iterator[Share]:
    weights = weight_bytes(model, settings.model.dtype)
    yield Share(device, "workers", weights + _kv_bytes(settings, model, device, vllm=vllm))
    # Beside the download buffers, what adapters are added to.
    num_copies = NUM_DOWNLOAD_BUFFERS + (settings.model.lora_r is not None)
    yield Share(CPU, "workers", num_copies * weights + PROCESS_BYTES)
    if device != CPU:
        yield Share(device, "workers", CONTEXT_BYTES)


def _kv_bytes(settings: Settings, model: ModelShape, device: str, *, vllm: bool) -> int:
    """Keys and values: vLLM's budget, or those of all completions at full length."""
    options = settings.devices.rollout_options
    if vllm:
        default = VLLM_KV_BYTES_CPU if device == CPU else VLLM_KV_BYTES
        return _number_after(KV_OPTION, options, default)
    num_tokens = settings.sampling.max_completion_length
    num_tokens *= _number_after(SEQS_OPTION, options, MAX_NUM_SEQS)
    return num_tokens * kv_bytes_per_token(model, settings.model.dtype)


def _number_after(option: str, options: Sequence[str], default: int) -> int:
    """The value of `--option=N` or `--option N`; the default where it is not given."""
    words = [word for entry in options for word in entry.split("=", 1)]
    given = [value for name, value in pairwise(words) if name == option]
    return int(given[-1]) if given and given[-1].isdecimal() else default


def _listed(need: Need, device: str) -> str:
    """`learner 9.2 GiB, activations 30.3 GiB, workers 4.9 GiB`"""
    totals: dict[str, int] = {}
    for share in need.shares:
        if share.device == device:
            totals[share.owner] = totals.get(share.owner, 0) + share.num_bytes
    if per_token := need.bytes_per_token(device):
        totals["activations at most"] = per_token * need.micro_batch_tokens
    return ", ".join(f"{owner} {gib(num_bytes)}" for owner, num_bytes in totals.items())
