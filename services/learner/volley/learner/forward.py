"""How a model is run for the log-probs of a micro-batch.

Axes: B sequences, R rows, L tokens of a row, T tokens of a completion, N trained tokens, H hidden
units, V vocabulary.

Two liberties are taken, each only with a model that was seen to give the same numbers when it was
loaded: its logits are never kept (head), and a prompt may stand once before all its completions
(shared_attention). Any other model makes its logits itself and is given a row per sequence.
"""

from inspect import signature

import torch
from torch import Tensor
from torch.nn.functional import embedding
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from volley.learner.batching import MicroBatch, TrainSequence, micro_batches
from volley.learner.head import Head, log_probs_of_hidden
from volley.learner.log_probs import LogProbs, log_probs_of_logits
from volley.learner.shared_attention import SHARED_PROMPTS, UnsupportedAttention
from volley.telemetry.stops import ExitCode, Stop

# Makes logits of some dozens, where a cap or a clamp shows, in models that were never trained too.
STRENGTH = 64.0
# Relative; of two ways to round. Any difference of kind is far above it.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


class Forward:
    """A model, and the liberties that it allows."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, *, compiles: bool = False) -> None:
        self._model = model
        self._head = _linear_head(model)
        self.shares_prompts = _allow_shared_prompts(model)
        """Micro-batches may have shared prompts."""
        if compiles:
            _compile_layers(model)

    def log_probs(self, micro_batch: MicroBatch, temperature: float) -> LogProbs:
        """What the model says about the trained tokens; 0 elsewhere."""
        mask_BT = micro_batch.mask_BT
        sources_N, targets_N = micro_batch.sources_BT[mask_BT], micro_batch.targets_BT[mask_BT]
        if self._head is None:
            logits_NV = _logits(self._model, micro_batch, sources_N)
            found = log_probs_of_logits(targets_N, logits_NV, temperature)
        else:
            hidden_NH = _at(_hidden(self._model, micro_batch), sources_N)
            found = log_probs_of_hidden(targets_N, hidden_NH, self._head, temperature)
        zeros_BT = found[0].new_zeros(mask_BT.shape)
        return LogProbs(*(zeros_BT.masked_scatter(mask_BT, values_N) for values_N in found))


def _hidden(model: PreTrainedModel, micro_batch: MicroBatch) -> Tensor:
    """The last hidden states, R x L x H."""
    output = model.base_model(**_inputs(micro_batch))
    assert isinstance(output.last_hidden_state, Tensor)
    return output.last_hidden_state


def _logits(model: PreTrainedModel, micro_batch: MicroBatch, sources_N: Tensor) -> Tensor:
    """N x V, as the model makes them: from the first column on that is asked for, if it can."""
    num_columns = micro_batch.input_ids_RL.shape[1]
    rows_N, columns_N = sources_N // num_columns, sources_N % num_columns
    first_column = int(columns_N.min())
    num_kept = num_columns - first_column
    takes_number = "logits_to_keep" in signature(model.forward).parameters
    keep = {"logits_to_keep": num_kept} if takes_number else {}
    logits_RLV = model(**_inputs(micro_batch), **keep).logits
    return _at(logits_RLV[:, -num_kept:], rows_N * num_kept + columns_N - first_column)


def _inputs(micro_batch: MicroBatch) -> dict[str, object]:
    inputs: dict[str, object] = {"input_ids": micro_batch.input_ids_RL, "use_cache": False}
    if micro_batch.shared_prompts:
        positions = [one.positions for one in micro_batch.shared_prompts]
        inputs["position_ids"] = torch.cat(positions)[None]
        inputs["shared_prompts"] = micro_batch.shared_prompts
    return inputs


def _at(values_RLX: Tensor, sources_N: Tensor) -> Tensor:
    """N x X. An embedding, for its backward adds what one token is given in a fixed order."""
    return embedding(sources_N, values_RLX.flatten(0, 1))


def _linear_head(model: PreTrainedModel) -> Head | None:
    """The model's head if there is no more to it, as seen on hidden states that test it hard."""
    layer, backbone = model.get_output_embeddings(), model.base_model
    if backbone is model or type(layer) is not torch.nn.Linear:
        return None
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    head = Head(layer.weight, layer.bias, softcap)
    seen: list[Tensor] = []

    def strengthen(_: torch.nn.Module, __: object, output: BaseModelOutput) -> BaseModelOutput:
        assert output.last_hidden_state is not None
        seen.append(output.last_hidden_state * STRENGTH)
        output["last_hidden_state"] = seen[0]
        return output

    hook = backbone.register_forward_hook(strengthen)
    try:
        logits_RLV = model(**_inputs(_trial(model))).logits
    finally:
        hook.remove()
    return head if seen and _agree(head.logits(seen[0]), logits_RLV) else None


def _allow_shared_prompts(model: PreTrainedModel) -> bool:
    """Let the model take rows with shared prompts, if it gives the same numbers for them."""
    own_attention = model.config._attn_implementation
    takes_positions = "position_ids" in signature(model.base_model.forward).parameters
    layer_types = getattr(model.config.get_text_config(), "layer_types", None) or ()
    if own_attention != "sdpa" or not takes_positions or {*layer_types} - {"full_attention"}:
        return False
    rows, row = _trial(model), _trial(model, share_from=1)
    expected_NH = _at(_hidden(model, rows), rows.sources_BT[rows.mask_BT])
    model.set_attn_implementation(SHARED_PROMPTS)
    try:
        found_NH = _at(_hidden(model, row), row.sources_BT[row.mask_BT])
        if _agree(found_NH, expected_NH):
            return True
    except UnsupportedAttention:
        pass
    model.set_attn_implementation(own_attention)
    return False


@torch.enable_grad()
def _compile_layers(model: PreTrainedModel) -> None:
    """Let the layers run compiled, once for all lengths; raises Stop where they cannot be."""
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or ()):
            module.compile(dynamic=True)
    try:
        _hidden(model, _trial(model))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"model.torch_compile: {reason}: install what it lacks (a C++ compiler, on a CPU), or "
            "set it to false",
        ) from error


def _trial(model: PreTrainedModel, share_from: int | None = None) -> MicroBatch:
    """Two completions, not of one length, of one prompt."""
    sequences = [
        TrainSequence((1, 2, 3), ids, (True,) * len(ids), (0.0,) * len(ids), advantage=1.0)
        for ids in ((4, 5, 6, 7), (8, 9))
    ]
    [micro_batch] = micro_batches(sequences, token_budget=14, share_from=share_from)
    return micro_batch.to(model.device)


def _agree(found: Tensor, expected: Tensor) -> bool:
    distance = torch.linalg.vector_norm(found - expected)
    return bool(distance <= TOLERANCE[expected.dtype] * torch.linalg.vector_norm(expected))
