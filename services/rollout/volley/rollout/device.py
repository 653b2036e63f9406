"""Where the engine computes."""

import torch

from volley.telemetry.stops import ExitCode, Stop


def choose_device(device: str) -> str:
    """The device itself; for `auto` the first accelerator that will do, else the CPU.

    Raises Stop for a device that this machine lacks.
    """
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise Stop(
                ExitCode.CONFIG,
                f"--device {device} (devices.rollout) cannot be used: {reason}: "
                "give cpu, cuda:0 or auto",
            ) from error
        return device
    accelerator = torch.accelerator.current_accelerator()
    # The sampler sums in float64, which Apple's accelerators do not know.
    return "cpu" if accelerator is None or accelerator.type == "mps" else str(accelerator)
