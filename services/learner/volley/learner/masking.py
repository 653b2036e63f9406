"""How masked values are kept out of sums and gradients: by choice, since NaN * 0 is NaN.

Axes: B sequences, T columns.
"""

import torch
from torch import Tensor


def select(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The values where the mask is True, 0 elsewhere."""
    return torch.where(mask_BT, values_BT, 0.0)


def total(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The sum of the values where the mask is True, without gradient."""
    return select(values_BT.detach(), mask_BT).sum()


def mean_B1(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean over each sequence's tokens; 0 where it has none."""
    num_tokens_B1 = mask_BT.sum(-1, keepdim=True).clamp(min=1)
    return select(values_BT, mask_BT).sum(-1, keepdim=True) / num_tokens_B1
