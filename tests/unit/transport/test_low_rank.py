"""Changes added to matrices: by hand, bit for bit over blocks of rows, and over the wire."""

import pytest
import torch

from volley.transport.low_rank import (
    BLOCK_VALUES,
    LowRank,
    add_change,
    pack_changes,
    unpack_changes,
)
from volley.transport.tensors import InvalidTensors

TWO = torch.tensor(2.0)


def random_change(dtype: torch.dtype, rows: int, columns: int, rank: int) -> LowRank:
    return LowRank(
        torch.randn(rank, columns).to(dtype), torch.randn(rows, rank).to(dtype), torch.tensor(1.7)
    )


def test_a_change_is_added_as_by_hand():
    matrix = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    change = LowRank(
        torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 1.0]]),
        torch.tensor([[1.0, 2.0], [0.0, -3.0]]),
        TWO,
    )
    # B A is [[2, 4, 1], [-1.5, -6, -3]].
    add_change(matrix, change)
    assert matrix.tolist() == [[5.0, 10.0, 5.0], [1.0, -7.0, 0.0]]


def test_a_sum_is_rounded_to_the_matrix_once_and_to_float32_after_each_product():
    matrix = torch.tensor([[1.0]], dtype=torch.bfloat16)
    # Each part alone is lost beside 1.0 in bfloat16, whose next value is 1.0078125.
    change = LowRank(torch.full((3, 1), 2.0**-4), torch.full((1, 3), 2.0**-6), TWO)
    add_change(matrix, change)
    assert matrix.item() == 1.0078125
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24, whose last part float32 does not hold: nothing is left.
    matrix, factor = torch.tensor([[0.0]]), 1 + 2.0**-12
    change = LowRank(torch.tensor([[1 + 2.0**-11], [factor]]), torch.tensor([[-1.0, factor]]), TWO)
    add_change(matrix, change)
    assert matrix.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_rows_give_the_bits_of_the_whole_equation(dtype: torch.dtype):
    torch.manual_seed(0)
    num_rows = 2 * (BLOCK_VALUES // 1000) + 7
    matrix, change = torch.randn(num_rows, 1000).to(dtype), random_change(dtype, num_rows, 1000, 3)
    first, second, third = (
        change.B.float()[:, [rank]] * change.A.float()[[rank]] for rank in range(3)
    )
    expected = (matrix.float() + change.scaling * (first + second + third)).to(dtype)
    add_change(matrix, change)
    assert torch.equal(matrix, expected)


def test_changes_are_packed_and_unpacked():
    changes = {"a.weight": random_change(torch.bfloat16, 2, 3, rank=1)}
    changes["b.weight"] = random_change(torch.float32, 4, 5, rank=2)
    packed = pack_changes(changes)
    assert {name: tuple(tensor.shape) for name, tensor in packed.items()} == {
        **{"a.weight.A": (1, 3), "a.weight.B": (2, 1), "a.weight.scaling": ()},
        **{"b.weight.A": (2, 5), "b.weight.B": (4, 2), "b.weight.scaling": ()},
    }
    unpacked = unpack_changes(packed)
    assert unpacked.keys() == changes.keys()
    for name, change in changes.items():
        assert all(map(torch.equal, unpacked[name], change))


def test_what_does_not_fit_is_refused():
    change = random_change(torch.float32, 2, 3, rank=1)
    for shape in ((3, 2), (2, 4), (2,)):
        with pytest.raises(InvalidTensors, match=r"a change of \(2, 1\) x \(1, 3\)"):
            add_change(torch.zeros(shape), change)
    packed = pack_changes({"w": change})
    del packed["w.B"]
    with pytest.raises(InvalidTensors, match=r"lacks 'w\.B'"):
        unpack_changes(packed)
