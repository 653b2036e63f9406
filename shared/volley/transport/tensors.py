"""Tensors as verified bytes: the safetensors layout, the hash of a blob, the root of its tensors.

The root is BLAKE3 over, for every tensor in the order of its name, the line
`name dtype shape\\n` followed by the BLAKE3 of the tensor's bytes. It does not depend on how the
tensors were laid out or transported, so an anchor and a patched copy can be compared.
Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON, data).
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

MAX_HEADER_BYTES = 100 * 2**20
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

Buffer = bytes | bytearray | memoryview


class InvalidTensors(ValueError):
    """These bytes are not the safetensors file that they should be."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: bytes `start` up to `stop` of the file."""

    name: str
    dtype: str
    """As safetensors spells it: F32, BF16."""
    shape: tuple[int, ...]
    start: int
    stop: int


def hash_bytes(content: Buffer) -> str:
    """BLAKE3, hexadecimal: the name under which these bytes are served."""
    return blake3(content).hexdigest()


def read_entries(content: Buffer) -> tuple[TensorEntry, ...]:
    """The tensors of a safetensors file, sorted by name; raises InvalidTensors."""
    data_start, header = _read_header(memoryview(content))
    try:
        entries = tuple(
            _entry(name, fields, data_start)
            for name, fields in sorted(header.items())
            if name != "__metadata__"
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidTensors(f"a tensor is described badly: {error}") from error
    end = max((entry.stop for entry in entries), default=data_start)
    if end != len(content):
        raise InvalidTensors(f"{len(content)} bytes, the header speaks of {end}")
    return entries


def root_of(content: Buffer) -> str:
    """The root over the tensors of a safetensors file, hexadecimal; raises InvalidTensors."""
    return root_over((content, entry) for entry in read_entries(content))


def root_over(tensors: Iterable[tuple[Buffer, TensorEntry]]) -> str:
    """The root over tensors in the order of their names, each with the file that it lies in."""
    root = blake3()
    for content, entry in tensors:
        shape = ",".join(map(str, entry.shape))
        root.update(f"{entry.name} {entry.dtype} {shape}\n".encode())
        root.update(blake3(memoryview(content)[entry.start : entry.stop]).digest())
    return root.hexdigest()


def _read_header(view: memoryview) -> tuple[int, dict[str, dict[str, object]]]:
    header_bytes = int.from_bytes(view[:8], "little")
    if len(view) < 8 or header_bytes > min(MAX_HEADER_BYTES, len(view) - 8):
        raise InvalidTensors("the header is cut off")
    try:
        header = json.loads(bytes(view[8 : 8 + header_bytes]))
    except ValueError as error:
        raise InvalidTensors(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise InvalidTensors("the header is not an object")
    return 8 + header_bytes, header


def _entry(name: str, fields: dict[str, object], data_start: int) -> TensorEntry:
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list)):
        raise TypeError(name)
    start, stop = offsets
    if not 0 <= start <= stop or stop - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise ValueError(f"{name}: {dtype} of shape {shape} does not fill {start} to {stop}")
    return TensorEntry(name, dtype, tuple(shape), data_start + start, data_start + stop)
