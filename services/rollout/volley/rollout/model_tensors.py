"""Tensors by name: as views of verified bytes, and checked against the model they are for."""

from collections.abc import Collection, Mapping

import torch

from volley.rollout.engine import InvalidWeights
from volley.transport.tensors import read_entries

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def tensors_in(content: bytearray | memoryview) -> dict[str, torch.Tensor]:
    """Views of a safetensors file by name; valid as long as `content` is."""
    return {
        entry.name: torch.frombuffer(
            content,
            dtype=DTYPES[entry.dtype],
            count=(entry.stop - entry.start) // DTYPES[entry.dtype].itemsize,
            offset=entry.start,
        ).reshape(entry.shape)
        for entry in read_entries(content)
    }


def check_tensors(
    own: Mapping[str, torch.Tensor], tied: Collection[str], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Return if `tensors` are the whole model `own`; raises InvalidWeights.

    `tied` names the tensors that are other names for another one, and may be left out.
    """
    unknown = sorted(tensors.keys() - own.keys())
    if unknown:
        raise InvalidWeights(f"the model has no tensor {unknown[0]!r} ({len(unknown)} unknown)")
    missing = sorted(own.keys() - tensors.keys() - set(tied))
    if missing:
        raise InvalidWeights(f"tensor {missing[0]!r} is not published ({len(missing)} missing)")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
            raise InvalidWeights(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, the model has "
                f"{own[name].dtype} {list(own[name].shape)}"
            )
