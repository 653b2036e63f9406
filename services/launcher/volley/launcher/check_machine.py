"""What a run needs beside its config: trackers, tokens, Redis, a port, memory, room on the disk."""

from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from volley.launcher.check_notes import Notes
from volley.launcher.doctor_devices import CPU, missing_device_findings
from volley.launcher.doctor_machine import disk_finding, port_finding, threads_finding
from volley.launcher.doctor_memory import judge_device, need_of
from volley.launcher.doctor_probe import (
    MODEL,
    Broken,
    Device,
    attempt,
    look_at_model,
    look_at_torch,
)
from volley.launcher.doctor_redis import binary_finding, server_findings
from volley.launcher.findings import Finding, warn
from volley.launcher.run import engine_of
from volley.launcher.sizing import ModelShape, disk_bytes
from volley.learner.redis_url import read_redis_url
from volley.learner.settings import ModelSettings, Settings
from volley.learner.token import read_tokens
from volley.learner.trackers import check_trackers


@dataclass(frozen=True, slots=True)
class Room:
    """What is free before anything is loaded."""

    num_free_bytes: int
    """Of main memory."""
    devices: tuple[Device, ...]

    @classmethod
    def look(cls) -> "Room":
        return cls(psutil.virtual_memory().available, look_at_torch().devices)


def look_around(settings: Settings, notes: Notes) -> None:
    """Everything that does not depend on the model."""
    notes.take("trackers", lambda: check_trackers(settings.tracking))
    notes.take("tokens", lambda: read_tokens(settings.server))
    notes.add(port_finding(settings.server))
    notes.take("redis", lambda: notes.add(*_redis_findings(settings)))
    notes.add(threads_finding(settings.devices, psutil.cpu_count() or 1))


def _redis_findings(settings: Settings) -> list[Finding]:
    url = read_redis_url(settings.queue)
    return server_findings(url) if url else [binary_finding(is_needed=True)]


def shape_of(model: ModelSettings) -> ModelShape | Broken:
    """What sizes follow from; why not, for models that none can be told of."""
    answer = attempt(MODEL, lambda: look_at_model(model.path, model.revision))
    assert isinstance(answer, ModelShape | Broken), "a model was asked for"
    return answer


def memory_findings(
    settings: Settings, shape: ModelShape | Broken, room: Room
) -> Iterator[Finding]:
    """The run's processes against what there is."""
    if isinstance(shape, Broken):
        advice = "look at its needs by hand: docs/sizing.md"
        yield warn("memory", f"not estimated: {shape.reason}", advice)
        return
    uses_vllm = engine_of(settings.devices.engine) == "vllm"
    need = need_of(settings, shape, room.devices, vllm=uses_vllm)
    yield from missing_device_findings(settings.devices, room.devices)
    yield judge_device(need, CPU, room.num_free_bytes)
    for device in room.devices:
        if need.fixed_bytes(device.name):
            yield judge_device(need, device.name, device.free_bytes)


def disk_findings(settings: Settings, shape: ModelShape | Broken | None) -> Iterator[Finding]:
    """Whether there is room for a run folder."""
    needed = _disk_bytes(settings, shape) if isinstance(shape, ModelShape) else None
    yield disk_finding(settings.run.folder.resolve(), needed)


def _disk_bytes(settings: Settings, shape: ModelShape) -> int:
    return disk_bytes(
        shape,
        settings.model.dtype,
        num_versions=settings.weights.keep,
        num_checkpoints=settings.checkpoint.keep,
        lora_r=settings.model.lora_r,
    )
