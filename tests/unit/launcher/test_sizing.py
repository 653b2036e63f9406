"""Bytes by hand, and against what the learner and vLLM really take."""

from collections.abc import Sequence

import pytest
import torch
from torch.nn import Parameter

from volley.launcher.sizing import (
    CHECKPOINT_BYTES_PER_PARAMETER,
    CHECKPOINTING_FROM_NUM_PARAMETERS,
    LEARNER_BYTES_PER_PARAMETER,
    LOGITS_BYTES,
    Dtype,
    ModelShape,
    activation_bytes_per_token,
    checkpoint_bytes,
    disk_bytes,
    kv_bytes_per_token,
    learner_bytes,
    uses_checkpointing,
    weight_bytes,
)
from volley.learner.log_probs import LOGITS_AT_ONCE
from volley.learner.masters import AdamWRules, Masters
from volley.learner.pretrained import CHECKPOINTING_FROM_NUM_PARAMETERS as LEARNERS_LIMIT

# Qwen2.5-0.5B and 7B; the linear maps of a layer of 0.5B: q and o 896 x 896, k and v 896 x 128,
# gate, up and down 896 x 4864.
SMALL = ModelShape(494_032_768, 24, 549_888, 896, 2, 64)
LARGE = ModelShape(7_615_616_512, 28, 2_523_136, 3584, 4, 128)


def test_a_model_of_half_a_billion_takes_these_bytes():
    assert weight_bytes(SMALL, "bfloat16") == 988_065_536
    assert learner_bytes(SMALL, "float32") == 7_904_524_288
    assert learner_bytes(SMALL, "bfloat16") == 9_880_655_360
    # 988,065,536 + 20 x 16 x 549,888
    assert learner_bytes(SMALL, "bfloat16", lora_r=16) == 1_164_029_696
    # 2 x 24 layers x 2 heads x 64 x 2 bytes
    assert kv_bytes_per_token(SMALL, "bfloat16") == 12_288


def test_a_run_of_half_a_billion_parameters_takes_this_much_disk():
    # 12 x 494,032,768
    assert checkpoint_bytes(SMALL) == 5_928_393_216
    # of versions the two kept, the next one and the trained model; of checkpoints three
    whole = disk_bytes(SMALL, "bfloat16", num_versions=2, num_checkpoints=2)
    assert whole == 4 * 988_065_536 + 3 * 5_928_393_216
    # Adapters of rank 16: 16 x 549,888 parameters, 2 bytes each in a version, 12 in a checkpoint.
    adapted = disk_bytes(SMALL, "bfloat16", num_versions=2, num_checkpoints=2, lora_r=16)
    assert adapted == 2 * 988_065_536 + 3 * 17_596_416 + 3 * 105_578_496


def test_activations_are_those_of_layers():
    # 24 x 896 x 65
    plain = activation_bytes_per_token(SMALL, "bfloat16", checkpointing=False)
    assert plain == 1_397_760
    # 24 x 896 x 2 + 896 x 65
    checkpointed = activation_bytes_per_token(SMALL, "bfloat16", checkpointing=True)
    assert checkpointed == 43_008 + 58_240


def test_logits_are_few_at_once_and_in_three_forms():
    assert LOGITS_BYTES == 3 * 4 * LOGITS_AT_ONCE


def test_large_models_recompute_activations_unless_told():
    assert not uses_checkpointing(SMALL, None)
    assert uses_checkpointing(LARGE, None)
    assert not uses_checkpointing(LARGE, False)
    assert CHECKPOINTING_FROM_NUM_PARAMETERS == LEARNERS_LIMIT


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_bytes_per_parameter_are_those_that_the_optimiser_holds(
    name: Dtype, dtype: torch.dtype
):
    parameter = Parameter(torch.ones(64, 64, dtype=dtype))
    masters = Masters({"a": parameter}, AdamWRules(0.9, 0.95, 1e-8, 0.0, 1.0))
    parameter.grad = torch.ones_like(parameter)
    masters.add_gradients()
    masters.step(1e-3)
    # The second micro-batch of a later step: a sum of gradients, and those of one backward.
    parameter.grad = torch.ones_like(parameter)
    masters.add_gradients()
    if dtype is torch.bfloat16:
        parameter.grad = torch.ones_like(parameter)
    held = bytes_of(parameter, parameter.grad, *masters.masters, *moments(masters))
    held += sum(bytes_of(m.grad) for m in masters.masters if m is not parameter)
    # AdamW's count of steps is four bytes a tensor.
    assert held == LEARNER_BYTES_PER_PARAMETER[name] * 64 * 64
    saved = bytes_of(*masters.tensors().values())
    assert saved == CHECKPOINT_BYTES_PER_PARAMETER * 64 * 64 + 4


def moments(masters: Masters) -> Sequence[torch.Tensor]:
    state = masters._optimizer.state
    return [value for one in state.values() for value in one.values() if value.numel() > 1]


def bytes_of(*tensors: torch.Tensor | None) -> int:
    """Of distinct tensors."""
    return sum({t.data_ptr(): t.nbytes for t in tensors if t is not None}.values())
