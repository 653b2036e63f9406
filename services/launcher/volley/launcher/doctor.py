"""`volley doctor`: is this machine fit for a run, and what to do where it is not."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from rich.console import Console

from volley.launcher.doctor_devices import CPU, device_findings, missing_device_findings
from volley.launcher.doctor_libraries import (
    Probe,
    installed_versions,
    knows_our_plugin,
    run_probe,
    torch_finding,
    transformers_finding,
    vllm_finding,
)
from volley.launcher.doctor_machine import (
    cores_finding,
    disk_finding,
    memory_finding,
    port_finding,
    python_finding,
    threads_finding,
)
from volley.launcher.doctor_memory import judge_device, need_of
from volley.launcher.doctor_probe import MODEL
from volley.launcher.doctor_redis import binary_finding, server_findings
from volley.launcher.findings import Finding, Level, bad, ok, show, show_json, warn, worst
from volley.launcher.run import engine_of
from volley.launcher.sizing import disk_bytes
from volley.learner.redis_url import read_redis_url
from volley.learner.settings import (
    ModelSettings,
    QueueSettings,
    RunSettings,
    Settings,
    load_settings,
)
from volley.telemetry.stops import ExitCode


def run_doctor(config: Path | None, overrides: Sequence[str], *, as_json: bool) -> ExitCode:
    """Print what was found; the code says whether anything of it is bad."""
    settings = load_settings(config, overrides) if config else None
    # What is waited for is said on the other stream: this one may be read by a program.
    with Console(stderr=True).status("trying torch, transformers and vLLM"):
        findings = list(examine(settings))
    if as_json:
        show_json(findings)
    else:
        show(findings, Console())
    return ExitCode.ENVIRONMENT if worst(findings) is Level.BAD else ExitCode.DONE


def examine(settings: Settings | None) -> Iterator[Finding]:
    """Everything about this machine, then about the run if there is one."""
    num_cores = psutil.cpu_count() or 1
    yield python_finding(sys.version_info[:3])
    yield cores_finding(num_cores, os.environ.get("OMP_NUM_THREADS"))
    yield memory_finding()
    probe = run_probe(_model_arguments(settings.model) if settings else ())
    yield from _libraries(probe, settings)
    yield from device_findings(probe.devices)
    yield from _redis(settings)
    if settings is None:
        yield disk_finding(RunSettings().folder.resolve(), None)
        return
    yield from missing_device_findings(settings.devices, probe.devices)
    yield threads_finding(settings.devices, num_cores)
    yield port_finding(settings.server)
    yield from _sizes(settings, probe)


def _libraries(probe: Probe, settings: Settings | None) -> Iterator[Finding]:
    installed = installed_versions()
    has_driver = shutil.which("nvidia-smi") is not None
    is_wanted = settings is not None and settings.devices.engine == "vllm"
    yield torch_finding(probe, installed, has_driver=has_driver)
    yield transformers_finding(probe, installed)
    yield vllm_finding(probe, installed, is_wanted=is_wanted, knows_plugin=knows_our_plugin())


def _redis(settings: Settings | None) -> Iterator[Finding]:
    url = read_redis_url(settings.queue if settings else QueueSettings())
    yield binary_finding(is_needed=not url)
    if url:
        yield from server_findings(url)


def _sizes(settings: Settings, probe: Probe) -> Iterator[Finding]:
    """Memory and disk for the run's model."""
    folder = settings.run.folder.resolve()
    if probe.model is None:
        yield _no_model(settings.model, probe)
        yield disk_finding(folder, None)
        return
    dtype = settings.model.dtype
    yield ok("model", f"{settings.model.path}, {probe.model.num_parameters:,} parameters, {dtype}")
    uses_vllm = engine_of(settings.devices.engine) == "vllm"
    need = need_of(settings, probe.model, probe.devices, vllm=uses_vllm)
    yield judge_device(need, CPU, psutil.virtual_memory().available)
    for device in probe.devices:
        if need.fixed_bytes(device.name):
            yield judge_device(need, device.name, device.free_bytes)
    needed = disk_bytes(
        probe.model,
        dtype,
        num_versions=settings.weights.keep,
        num_checkpoints=settings.checkpoint.keep,
        lora_r=settings.model.lora_r,
    )
    yield disk_finding(folder, needed)


def _no_model(model: ModelSettings, probe: Probe) -> Finding:
    reason, _, _ = str(probe.problem(MODEL)).partition(". ")
    found = f"{model.path}, sizes not estimated: {reason}"
    if Path(model.path).is_absolute():
        return bad("model", found, "give a folder as save_pretrained writes it in model.path")
    return warn("model", found, f"fetch it first to know them: hf download {model.path}")


def _model_arguments(model: ModelSettings) -> list[str]:
    return [model.path, *([model.revision] if model.revision else [])]
