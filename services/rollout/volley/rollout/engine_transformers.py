"""An engine over any AutoModelForCausalLM of transformers, with a decode loop of its own.

It works in waves: requests that start together take every step together, a prompt goes through
the model once for its whole group, and waiting requests start when the wave is over. Runs
anywhere; vLLM is the engine for long completions, where rows that ended early leave holes.

Axes: P prompts, B rows of the batch, T tokens, V vocabulary.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from volley.rollout.engine import SampleRequest, StepResult, check_servable
from volley.rollout.model_tensors import check_tensors
from volley.rollout.sampler import sample_tokens
from volley.rollout.wave import Wave
from volley.schemas.groups import Version


class TransformersEngine:
    """The engine Protocol over a model built from a folder's config.json; brings no weights."""

    def __init__(
        self,
        model_folder: Path,
        dtype: str,
        device: str,
        max_num_seqs: int,
        max_context_length: int,
    ) -> None:
        config = AutoConfig.from_pretrained(model_folder)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        self._model = model.eval()
        takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._last_logits_only = {"logits_to_keep": 1} if takes_logits_to_keep else {}
        self._device = torch.device(device)
        self._max_num_seqs = max_num_seqs
        self._max_context_length = max_context_length
        self.vocab_size: int = config.get_text_config().vocab_size
        self._waiting: dict[str, SampleRequest] = {}
        self._wave: Wave | None = None
        self._cache: DynamicCache | None = None
        """Keys and values of the wave; None where they are to be computed again."""
        self._version: Version | None = None

    @property
    def num_free_seqs(self) -> int:
        if self._wave is not None:
            return 0
        num_waiting = sum(r.sampling.num_generations for r in self._waiting.values())
        return max(0, self._max_num_seqs - num_waiting)

    def add(self, request: SampleRequest) -> None:
        check_servable(request, self._max_context_length, self.vocab_size)
        self._waiting[request.id] = request

    @torch.inference_mode()
    def step(self) -> StepResult:
        if self._wave is None:
            if not self._waiting:
                return StepResult((), {})
            self._wave = Wave(self._take_waiting(), self._device)
        assert self._version is not None, "weights are loaded before the first step"
        wave = self._wave
        logits_BV = self._next_logits(wave)
        tokens_B, logprobs_B = sample_tokens(logits_BV, wave.temperatures_B, wave.uniforms_B)
        result = wave.append(tokens_B, logprobs_B, self._version)
        self._drop(wave)
        return result

    @torch.inference_mode()
    def abort(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)
        if self._wave is not None:
            self._wave.abort(request_id)
            self._drop(self._wave)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor], version: Version) -> None:
        own = self._model.state_dict()
        check_tensors(own, self._model.all_tied_weights_keys, tensors)
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        self._version = version
        self._cache = None

    def close(self) -> None:
        self._waiting.clear()
        self._wave = self._cache = None

    def _take_waiting(self) -> list[SampleRequest]:
        taken: list[SampleRequest] = []
        num_rows = 0
        for request in list(self._waiting.values()):
            num_rows += request.sampling.num_generations
            if taken and num_rows > self._max_num_seqs:
                break
            taken.append(self._waiting.pop(request.id))
        return taken

    def _next_logits(self, wave: Wave) -> torch.Tensor:
        """Logits B x V of the next token, whatever of the rows the cache already holds."""
        if self._cache is None:
            self._cache, logits_BV = self._prefill(wave)
            if not wave.num_steps:
                return logits_BV
        return self._continue(wave, self._cache)

    def _prefill(self, wave: Wave) -> tuple[DynamicCache, torch.Tensor]:
        """A cache that holds each row's prompt, and the logits B x V behind the prompts."""
        prompts = wave.prompts
        positions_PT = (prompts.mask_PT.cumsum(dim=-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config)
        logits_PV = self._forward(prompts.ids_PT, prompts.mask_PT, positions_PT, cache)
        cache.batch_select_indices(wave.request_B)
        return cache, logits_PV[wave.request_B]

    def _continue(self, wave: Wave, cache: DynamicCache) -> torch.Tensor:
        """Logits B x V behind the sampled tokens, of which the cache lacks the last ones."""
        num_cached = cache.get_seq_length() - wave.prompts.width
        tokens_BT = wave.tokens_BT(num_cached)
        prompt_mask_BT = wave.prompts.mask_PT[wave.request_B]
        sampled_mask_BT = prompt_mask_BT.new_ones(len(tokens_BT), wave.num_steps)
        mask_BT = torch.cat([prompt_mask_BT, sampled_mask_BT], dim=1)
        offsets_T = torch.arange(num_cached, wave.num_steps, device=self._device)
        positions_BT = wave.prompts.lengths_P[wave.request_B][:, None] + offsets_T
        return self._forward(tokens_BT, mask_BT, positions_BT, cache)

    def _forward(
        self,
        ids_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        positions_BT: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        output = self._model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            **self._last_logits_only,
        )
        logits_BTV: torch.Tensor = output.logits
        return logits_BTV[:, -1]

    def _drop(self, wave: Wave) -> None:
        """Let go of the wave when it is over, else of its finished rows where that pays."""
        if wave.is_over:
            self._wave = self._cache = None
            return
        keep_B = wave.drop_finished()
        if keep_B is not None and self._cache is not None:
            self._cache.batch_select_indices(keep_B)
