import contextlib
import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from volley.transport.tensors import InvalidTensors, hash_bytes, read_entries, root_of

CONTENT = save({"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)})


def with_header(header: object, data: bytes = b"\0" * 4) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_entries_are_where_the_tensors_lie():
    b, w = read_entries(CONTENT)
    assert (b.name, b.dtype, b.shape) == ("b", "BF16", (2,))
    assert (w.name, w.dtype, w.shape) == ("w", "F32", (2, 3))
    assert struct.unpack("<6f", CONTENT[w.start : w.stop]) == (0, 1, 2, 3, 4, 5)


def test_the_root_does_not_depend_on_the_layout():
    w, b = struct.pack("<f", 1), struct.pack("<f", 2)
    one = {
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    }
    other = {
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    }
    first, second = with_header(one, w + b), with_header(other, b + w)
    assert root_of(first) == root_of(second)
    assert hash_bytes(first) != hash_bytes(second)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cut off"),
        (b"\xff" * 16, "cut off"),
        (CONTENT[:-1], "the header speaks of"),
        (CONTENT + b"x", "the header speaks of"),
        (with_header([1]), "not an object"),
        (struct.pack("<Q", 3) + b"{{{", "not JSON"),
        (with_header({"a": {"dtype": "F32", "shape": [1]}}), "described badly"),
        (with_header({"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}), "badly"),
        (with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}), "badly"),
        (with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}), "badly"),
        (with_header({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}), "badly"),
        (with_header({"a": 3}), "badly"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(content, words):
    with pytest.raises(InvalidTensors, match=words):
        read_entries(content)


@given(st.integers(0, len(CONTENT) - 1), st.integers(0, 7))
def test_a_flipped_bit_changes_the_root_or_is_refused(position, bit):
    damaged = bytearray(CONTENT)
    damaged[position] ^= 1 << bit
    with contextlib.suppress(InvalidTensors):
        assert root_of(damaged) != root_of(CONTENT)
