"""Where the engine computes."""

import torch


def choose_device(device: str) -> str:
    """The device itself; for `auto` the first accelerator there is, else the CPU."""
    if device != "auto":
        return device
    return str(torch.accelerator.current_accelerator() or "cpu")
