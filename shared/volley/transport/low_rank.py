"""Low-rank changes of matrices: as tensors on the wire, and added to what they change.

Learner and workers must get the same bits wherever they add, for the root is over the sum. So
there is no matrix product here: the order in which one adds up, and whether it rounds in between,
is the library's and the device's choice. Products and sums of single values in float32 are IEEE's,
the same everywhere.

    changed = base + scaling * (B[:, 0] A[0] + B[:, 1] A[1] + ...)     in float32, then rounded
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from volley.transport.tensors import InvalidTensors

if TYPE_CHECKING:
    from torch import Tensor

# Rows of so many values are summed up while they stay in a core's cache.
BLOCK_VALUES = 2**17


class LowRank(NamedTuple):
    """The change of a matrix of O x I, of rank R."""

    A: "Tensor"
    """R x I."""
    B: "Tensor"
    """O x R."""
    scaling: "Tensor"
    """One float32."""


def add_change(matrix: "Tensor", change: LowRank) -> None:
    """Add the change to the matrix, in place; raises InvalidTensors where it does not fit."""
    expected = (matrix.shape[0], len(change.A)), (len(change.A), *matrix.shape[1:])
    if (tuple(change.B.shape), tuple(change.A.shape)) != expected:
        raise InvalidTensors(
            f"a change of {tuple(change.B.shape)} x {tuple(change.A.shape)} for a matrix of "
            f"{tuple(matrix.shape)}"
        )
    A, num_rows = change.A.float(), max(1, BLOCK_VALUES // matrix.shape[1])
    for start in range(0, len(matrix), num_rows):
        rows, B = matrix[start : start + num_rows], change.B[start : start + num_rows].float()
        rows.copy_(rows.float() + change.scaling * _product(B, A))


def pack_changes(changes: Mapping[str, LowRank]) -> dict[str, "Tensor"]:
    """Changes by the name of the tensor that they change, as tensors by name."""
    return {
        f"{name}.{part}": tensor
        for name, change in changes.items()
        for part, tensor in change._asdict().items()
    }


def unpack_changes(tensors: Mapping[str, "Tensor"]) -> dict[str, LowRank]:
    """What was packed; raises InvalidTensors."""
    names = {name.rpartition(".")[0] for name in tensors}
    try:
        return {
            name: LowRank(*(tensors[f"{name}.{part}"] for part in LowRank._fields))
            for name in sorted(names)
        }
    except KeyError as error:
        raise InvalidTensors(f"a change lacks {error}") from error


def _product(B: "Tensor", A: "Tensor") -> "Tensor":
    """B A, one rank after the other."""
    total = B[:, 0, None] * A[0]
    for rank in range(1, len(A)):
        # Not addcmul, which may round once where these round twice.
        total += B[:, rank, None] * A[rank]
    return total
