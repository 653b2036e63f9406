"""The process variables that vLLM reads while it is imported."""

import logging
import os
import warnings

from volley.rollout.device import choose_device
from volley.telemetry.stops import ExitCode, Stop

DEFAULTS = {
    # Nothing is reported to anybody, and nothing is looked for on a hub.
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    # Its processes talk to each other on this machine only.
    "VLLM_HOST_IP": "127.0.0.1",
    # The engine runs in our thread; a swap then falls between two steps by itself. Processes
    # that tensor parallelism adds are spawned, as those of a program with threads must be.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Two workers that are bound would share one core and leave the others idle.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TOKENIZERS_PARALLELISM": "false",
    # Its messages go through our handlers; what it warns of at every start is not news.
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def set_process_variables(device: str, num_threads: int, tensor_parallel_size: int) -> None:
    """Prepare this process for vLLM; what the user has set stays. Call it before the import."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
    if device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_devices(
            int(device.removeprefix("cuda:")),
            tensor_parallel_size,
            os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
    if device == "cpu" or (device == "auto" and choose_device(device) == "cpu"):
        # Even an eager engine compiles a few functions, for half a minute on a CPU.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    quieten()


def quieten() -> None:
    """Keep what vLLM says at every start out of our logs."""
    warnings.filterwarnings("ignore", module=r"vllm\.")
    # Beside handlers of ours it does not heed the variable by itself.
    if level := os.environ.get("VLLM_LOGGING_LEVEL"):
        logging.getLogger("vllm").setLevel(level)


def visible_devices(first: int, num_devices: int, visible: str | None) -> str:
    """`num_devices` devices from `first` on, counted among the visible ones; raises Stop."""
    names = visible.split(",") if visible else [str(i) for i in range(first + num_devices)]
    chosen = names[first : first + num_devices]
    if len(chosen) < num_devices:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"--device cuda:{first}: with CUDA_VISIBLE_DEVICES={visible} there are not "
            f"{num_devices} devices from there on",
        )
    return ",".join(chosen)
