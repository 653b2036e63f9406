"""Accelerators that are there, and those that [devices] asks for."""

from collections.abc import Sequence

from volley.launcher.doctor_probe import Device
from volley.launcher.findings import Finding, bad, gib, ok
from volley.learner.settings import DevicesSettings

CPU = "cpu"


def resolve_device(name: str, devices: Sequence[Device]) -> str:
    """The device that `name` in [devices] comes to."""
    if name == "auto":
        return devices[0].name if devices else CPU
    return "cuda:0" if name == "cuda" else name


def device_findings(devices: Sequence[Device]) -> list[Finding]:
    """One for each, or that there is none."""
    if not devices:
        return [ok("devices", "no CUDA device that torch can use")]
    return [
        ok(
            device.name,
            f"{device.product}, {gib(device.free_bytes)} of {gib(device.total_bytes)} free",
        )
        for device in devices
    ]


def missing_device_findings(wanted: DevicesSettings, devices: Sequence[Device]) -> list[Finding]:
    """One for each CUDA device that a run asks for and that is not there."""
    there = {device.name for device in devices}
    names = {resolve_device(name, devices) for name in (wanted.learner, *wanted.rollout)}
    return [
        bad(
            name,
            "[devices] names it, and torch does not find it",
            f"name one of: auto, cpu{''.join(f', {device}' for device in sorted(there))}",
        )
        for name in sorted(names - there)
        if name.startswith("cuda")
    ]
