"""What a run needs of memory and disk, from numbers alone; docs/sizing.md does it by hand.

Bytes throughout. A lower bound where it says so: allocators and libraries take more.
"""

from typing import Literal

import msgspec

Dtype = Literal["float32", "bfloat16"]

BYTES_PER_VALUE: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}

LEARNER_BYTES_PER_PARAMETER: dict[Dtype, int] = {
    # master 4, gradient 4, two moments of AdamW 8
    "float32": 16,
    # weight 2 and its gradient 2 besides
    "bfloat16": 20,
}

CHECKPOINT_BYTES_PER_PARAMETER = 12
"""Master 4, two moments of AdamW 8."""

# What autograd keeps per token, layer and hidden unit: counted on layers of Qwen2.5's shapes.
ACTIVATION_BYTES_PER_UNIT: dict[Dtype, int] = {"float32": 122, "bfloat16": 65}

LOGITS_BYTES = 3 * 2**26
"""Of the logits that the learner has at once, their probabilities and gradients: a few, whatever
the vocabulary, unless the model scales its logits (volley.learner.forward)."""

CHECKPOINTING_FROM_NUM_PARAMETERS = 1_000_000_000
"""As volley.learner.pretrained has it."""


class ModelShape(msgspec.Struct, frozen=True, tag="model"):
    """What a model's size follows from."""

    num_parameters: int
    """Tied ones once."""
    num_layers: int
    linear_units: int
    """Inputs and outputs of all linear maps of the layers: what adapters of rank 1 have."""
    hidden_size: int
    num_kv_heads: int
    head_dim: int


def weight_bytes(model: ModelShape, dtype: Dtype) -> int:
    """Of one copy of the published weights."""
    return model.num_parameters * BYTES_PER_VALUE[dtype]


def learner_bytes(model: ModelShape, dtype: Dtype, lora_r: int | None = None) -> int:
    """Of weights, masters, gradients and optimiser state, activations apart."""
    if lora_r is None:
        return model.num_parameters * LEARNER_BYTES_PER_PARAMETER[dtype]
    adapters = lora_r * model.linear_units
    return weight_bytes(model, dtype) + adapters * LEARNER_BYTES_PER_PARAMETER[dtype]


def activation_bytes_per_token(model: ModelShape, dtype: Dtype, *, checkpointing: bool) -> int:
    """Of the forward's; logits are not kept."""
    of_layer = ACTIVATION_BYTES_PER_UNIT[dtype] * model.hidden_size
    if checkpointing:
        # Each layer's input, and one layer in full while its backward runs.
        return model.num_layers * model.hidden_size * BYTES_PER_VALUE[dtype] + of_layer
    return model.num_layers * of_layer


def kv_bytes_per_token(model: ModelShape, dtype: Dtype) -> int:
    """Of a key and a value in every layer."""
    of_layer = 2 * model.num_kv_heads * model.head_dim * BYTES_PER_VALUE[dtype]
    return model.num_layers * of_layer


def checkpoint_bytes(model: ModelShape, lora_r: int | None = None) -> int:
    """Of one checkpoint: masters and both moments of AdamW, in float32."""
    trained = model.num_parameters if lora_r is None else lora_r * model.linear_units
    return trained * CHECKPOINT_BYTES_PER_PARAMETER


def disk_bytes(
    model: ModelShape,
    dtype: Dtype,
    *,
    num_versions: int,
    num_checkpoints: int,
    lora_r: int | None = None,
) -> int:
    """Of a run folder: what it keeps, the next version and checkpoint, and the trained model.

    With adapters a version is them alone, beside one base. The step log comes on top.
    """
    weights = weight_bytes(model, dtype)
    checkpoints = (num_checkpoints + 1) * checkpoint_bytes(model, lora_r)
    if lora_r is None:
        return (num_versions + 2) * weights + checkpoints
    adapters = lora_r * model.linear_units * BYTES_PER_VALUE[dtype]
    return 2 * weights + (num_versions + 1) * adapters + checkpoints


def uses_checkpointing(model: ModelShape, wanted: bool | None) -> bool:
    """Whether activations are recomputed: as wanted, else for a large model."""
    return model.num_parameters > CHECKPOINTING_FROM_NUM_PARAMETERS if wanted is None else wanted
