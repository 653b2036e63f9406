"""Where the engine computes."""

import torch


def choose_device(device: str) -> str:
    """The device itself; for `auto` the first accelerator that will do, else the CPU."""
    if device != "auto":
        return device
    accelerator = torch.accelerator.current_accelerator()
    # The sampler sums in float64, which Apple's accelerators do not know.
    return "cpu" if accelerator is None or accelerator.type == "mps" else str(accelerator)
