"""Python, cores, disk and ports: what is wrong, and the words that mend it."""

import socket
from pathlib import Path

import pytest

from volley.launcher.doctor_machine import (
    cores_finding,
    disk_finding,
    judge_disk,
    memory_finding,
    port_finding,
    python_finding,
    threads_finding,
)
from volley.launcher.findings import GIB, Level
from volley.learner.settings import DevicesSettings, ServerSettings


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 10, 9), Level.BAD),
        ((3, 11, 0), Level.OK),
        ((3, 14, 9), Level.OK),
        ((3, 15, 0), Level.BAD),
    ],
)
def test_python_3_11_to_3_14_will_do(version, level):
    assert python_finding(version).level is level


def test_more_openmp_threads_than_cores_are_a_warning():
    assert cores_finding(2, None).found == "2, OMP_NUM_THREADS not set"
    assert cores_finding(2, "2").level is Level.OK
    assert "OMP_NUM_THREADS=1" in str(cores_finding(2, "3").advice)


def test_processes_that_crowd_the_cores_are_given_a_number_that_fits():
    devices = DevicesSettings(rollout=("cpu", "cpu", "cpu"), threads=4)
    assert threads_finding(devices, 16).level is Level.OK
    crowded = threads_finding(devices, 8)
    assert crowded.found == "4 processes x 4 on 8 cores"
    assert str(crowded.advice).startswith("devices.threads = 2:")
    single = DevicesSettings(rollout=("cpu", "cpu"))
    assert "fewer workers" in str(threads_finding(single, 2).advice)


def test_main_memory_is_told():
    assert "GiB available" in memory_finding().found


def test_a_disk_that_is_too_small_is_bad(tmp_path):
    finding = disk_finding(tmp_path / "runs", 10**18)
    assert finding.level is Level.BAD
    assert "weights.keep" in str(finding.advice)
    assert "931322574.6 GiB" in finding.found


def test_a_disk_that_a_run_would_fill_is_a_warning():
    runs = Path("runs")
    assert judge_disk(runs, 10 * GIB, 7 * GIB).level is Level.OK
    assert judge_disk(runs, 10 * GIB, 9 * GIB).level is Level.WARN
    assert judge_disk(runs, GIB, None).level is Level.WARN


def test_a_folder_that_cannot_be_is_bad(tmp_path):
    (tmp_path / "file").touch()
    finding = disk_finding(tmp_path / "file" / "runs", None)
    assert (finding.level, "run.folder" in str(finding.advice)) == (Level.BAD, True)


def test_a_port_in_use_is_bad_and_a_free_one_is_well():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        taken = port_finding(ServerSettings(port=port))
    assert taken.level is Level.BAD
    assert f"127.0.0.1:{port}" in taken.found
    assert "already in use" in taken.found
    assert "server.port" in str(taken.advice)
    assert port_finding(ServerSettings(port=port)).level is Level.OK
    assert port_finding(ServerSettings()).level is Level.OK
