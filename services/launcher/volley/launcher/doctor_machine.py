"""What the machine offers: Python, cores, memory, disk, a port."""

import os
import socket
from pathlib import Path

import psutil

from volley.launcher.findings import Finding, bad, gib, ok, warn
from volley.learner.settings import DevicesSettings, ServerSettings

OLDEST_PYTHON, FIRST_UNTRIED_PYTHON = (3, 11), (3, 15)
LOW_DISK_BYTES = 2 * 2**30


def python_finding(version: tuple[int, int, int]) -> Finding:
    """Whether Volley's dependencies know this Python."""
    found = ".".join(map(str, version))
    if OLDEST_PYTHON <= version < FIRST_UNTRIED_PYTHON:
        return ok("python", found)
    return bad("python", found, "use 3.11 to 3.14: make setup PYTHON=/path/to/python3.11")


def cores_finding(num_cores: int, omp_num_threads: str | None) -> Finding:
    """Cores, and the threads that processes started by hand would take."""
    found = f"{num_cores}, OMP_NUM_THREADS {omp_num_threads or 'not set'}"
    if omp_num_threads and omp_num_threads.isdecimal() and int(omp_num_threads) > num_cores:
        return warn("cores", found, "export OMP_NUM_THREADS=1: more threads than cores are slow")
    return ok("cores", found)


def threads_finding(devices: DevicesSettings, num_cores: int) -> Finding:
    """Whether the processes of a run leave each other room."""
    num_processes = 1 + len(devices.rollout)
    num_threads = num_processes * devices.threads
    found = f"{num_processes} processes x {devices.threads} on {num_cores} cores"
    if num_threads <= num_cores:
        return ok("threads", found)
    fitting = max(1, num_cores // num_processes)
    if fitting == devices.threads:
        advice = "list fewer workers in devices.rollout, or take a larger machine"
    else:
        advice = f"devices.threads = {fitting}: threads that wait for a core are slow"
    return warn("threads", found, advice)


def memory_finding() -> Finding:
    """Main memory."""
    memory = psutil.virtual_memory()
    return ok("memory", f"{gib(memory.available)} of {gib(memory.total)} available")


def disk_finding(folder: Path, num_needed_bytes: int | None) -> Finding:
    """Room for run folders in `folder`, which may not exist yet; None for an unknown need."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        return bad("disk", f"{place} cannot be written to", "choose another folder: run.folder")
    return judge_disk(folder, psutil.disk_usage(str(place)).free, num_needed_bytes)


def judge_disk(folder: Path, num_free_bytes: int, num_needed_bytes: int | None) -> Finding:
    """Free against needed."""
    found = f"{gib(num_free_bytes)} free in {folder}"
    if num_needed_bytes is not None:
        found += f", a run needs {gib(num_needed_bytes)}"
        if num_needed_bytes > num_free_bytes:
            advice = "make room, choose another run.folder, or lower weights.keep"
            return bad("disk", found, advice)
    if num_free_bytes - (num_needed_bytes or 0) < LOW_DISK_BYTES:
        return warn("disk", found, "make room: logs, metrics and Redis need some as well")
    return ok("disk", found)


def port_finding(server: ServerSettings) -> Finding:
    """Whether the learner could listen where it is told to."""
    address = f"{server.host}:{server.port}"
    if server.port == 0:
        return ok("port", "any free one")
    try:
        socket.create_server((server.host, server.port)).close()
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "end what listens there, or choose another server.port (0 takes a free one)"
        return bad("port", f"{address}: {reason}", advice)
    return ok("port", f"{address} is free")
