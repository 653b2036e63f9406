"""The arguments of vLLM's engine: what Volley needs them to be, and what the user adds."""

import json
import secrets
from collections.abc import Collection
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from vllm import EngineArgs

from volley.rollout.settings import VllmSettings
from volley.rollout.vllm_plugin import WEIGHT_TRANSFER
from volley.telemetry.stops import ExitCode, Stop

KV_CACHE_BYTES = 4 * 2**30
KV_CACHE_BYTES_CPU = 256 * 2**20
MAX_BATCHED_TOKENS_CPU = 2**17
NOT_FOR_VOLLEY = {
    "data_parallel_size": "start more workers instead",
    "pipeline_parallel_size": "a swap would fall into steps that are under way",
    "spec_method": "log-probs must be those of the policy alone",
    "speculative_config": "log-probs must be those of the policy alone",
    "trust_remote_code": "code comes from this machine, never from a model's folder",
}


def engine_arguments(
    model_folder: Path,
    dtype: str,
    device_type: str,
    max_num_seqs: int,
    max_context_length: int,
    settings: VllmSettings,
) -> EngineArgs:
    """Arguments for an engine without weights; raises Stop for what the user may not add."""
    on_cpu = device_type == "cpu"
    kv_cache_bytes = KV_CACHE_BYTES_CPU if on_cpu else KV_CACHE_BYTES
    fixed: dict[str, object] = {
        "model": str(model_folder),
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "weight_transfer_config": {"backend": WEIGHT_TRANSFER},
        "dtype": settings.dtype or dtype,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "max_num_seqs": max_num_seqs,
        # -1: the model's own limit, or less if the memory for keys and values is too small.
        "max_model_len": settings.max_model_len or -1,
        "kv_cache_memory_bytes": settings.kv_cache_memory_bytes or kv_cache_bytes,
        "enforce_eager": settings.enforce_eager or on_cpu,
        # The sampling fields of the spec and nothing else, and log-probs at its temperature.
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        # No step is under way while the next is prepared, so a token belongs to the version
        # that is loaded when `step` returns it.
        "async_scheduling": False,
        # vLLM seeds the whole process with it, reward code included; samples have their own.
        "seed": secrets.randbits(31),
        "disable_log_stats": True,
    }
    preferred: dict[str, object] = {
        "enable_prefix_caching": True,
        # Beside a given KV budget vLLM uses it for one thing: to refuse a GPU of which less is
        # free. Its 0.92 would refuse the one that the learner is on.
        "gpu_memory_utilization": 0.01,
    }
    if on_cpu:
        # A prompt that is prefilled in pieces draws a number for each, and vLLM cannot take
        # that back from a generator on the CPU: "CPU Generator does not use offset".
        fixed["enable_chunked_prefill"] = False
        longest = settings.max_model_len or min(max_context_length, MAX_BATCHED_TOKENS_CPU)
        fixed["max_num_batched_tokens"] = max(longest, 8192)
        # Prompts are shared by full blocks; vLLM's CPU kernels want multiples of 32.
        preferred["block_size"] = 32
    return EngineArgs(**(preferred | _added(settings.engine_args, fixed) | fixed))


def _added(engine_args: Collection[tuple[str, str]], fixed: Collection[str]) -> dict[str, object]:
    """The user's own arguments, as JSON where they are; raises Stop."""
    known = {field.name for field in fields(EngineArgs)}
    own_options = {field.name for field in fields(VllmSettings)} | {"max_num_seqs"}
    for name, _ in engine_args:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise Stop(ExitCode.CONFIG, f"--engine-arg {name}: vLLM has no such argument{hint}")
        if name in own_options:
            option = name.replace("_", "-")
            raise Stop(ExitCode.CONFIG, f"--engine-arg {name}: give it as --{option}")
        if name in NOT_FOR_VOLLEY:
            raise Stop(ExitCode.CONFIG, f"--engine-arg {name}: {NOT_FOR_VOLLEY[name]}")
        if name in fixed:
            raise Stop(
                ExitCode.CONFIG, f"--engine-arg {name}: Volley sets it to what training needs"
            )
    return {name: _value_of(text) for name, text in engine_args}


def _value_of(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value
