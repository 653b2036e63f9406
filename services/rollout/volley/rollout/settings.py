"""A worker's own few settings; the rest it learns from the learner."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from volley.telemetry.stops import ExitCode, Stop


class EngineName(StrEnum):
    TRANSFORMERS = "transformers"
    VLLM = "vllm"


class KvPolicy(StrEnum):
    """What becomes of the keys and values of running requests when weights are swapped."""

    RECOMPUTE = "recompute"
    """Computed again: every log-prob is exactly that of the version it is tagged with."""
    KEEP = "keep"
    """Kept: a faster swap, and log-probs from a mixture of two versions until the sample ends."""


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """What only the engine `vllm` is asked; None leaves the choice to the engine."""

    tensor_parallel_size: int = 1
    dtype: str | None = None
    """None for that of the published weights."""
    max_model_len: int | None = None
    """Prompt and completion together, in tokens; None for what run and KV memory allow."""
    kv_cache_memory_bytes: int | None = None
    enforce_eager: bool = False
    kv_policy: KvPolicy = KvPolicy.RECOMPUTE
    engine_args: tuple[tuple[str, str], ...] = ()
    """Further arguments of vLLM by name, the values as they were typed."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything that is decided where the worker runs."""

    learner_url: str
    token: str
    redis_url: str | None
    """Instead of the address that the learner gives; see `redis_address`."""
    engine: EngineName
    device: str
    """cpu, cuda:0, ...; auto takes the first accelerator there is."""
    num_threads: int
    code_folder: Path | None
    """Where reward modules lie; None for the learner's hint, else the current folder."""
    max_num_seqs: int
    """Most sequences sampled at once."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Where probes and Prometheus are answered: None for nowhere, 0 for a free port."""
    vllm: VllmSettings = VllmSettings()


def check_vllm_settings(engine: EngineName, vllm: VllmSettings) -> VllmSettings:
    """The settings themselves; raises Stop where another engine would ignore them."""
    unset = VllmSettings()
    given = [
        field.name
        for field in fields(VllmSettings)
        if getattr(vllm, field.name) != getattr(unset, field.name)
    ]
    if given and engine is not EngineName.VLLM:
        option = given[0].replace("engine_args", "engine_arg").replace("_", "-")
        raise Stop(ExitCode.CONFIG, f"--{option} is for --engine vllm, not {engine}: leave it out")
    return vllm


def split_engine_args(engine_args: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Name and value of every `key=value`; raises Stop."""
    pairs = []
    for argument in engine_args:
        name, equals, value = argument.partition("=")
        if not (name and equals):
            raise Stop(ExitCode.CONFIG, f"--engine-arg {argument}: write it as NAME=VALUE")
        pairs.append((name.replace("-", "_"), value))
    return tuple(pairs)


def read_token(environment: Mapping[str, str] = os.environ) -> str:
    """VOLLEY_TOKEN, else the content of VOLLEY_TOKEN_FILE; raises Stop without either."""
    token, path = environment.get("VOLLEY_TOKEN"), environment.get("VOLLEY_TOKEN_FILE")
    if not token and path:
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Stop(
                ExitCode.CONFIG, f"VOLLEY_TOKEN_FILE: cannot read {path}: {error}"
            ) from error
    if not token:
        raise Stop(
            ExitCode.CONFIG,
            "set VOLLEY_TOKEN (or VOLLEY_TOKEN_FILE) to the token of the learner, which is in its "
            "run folder",
        )
    return token


def check_learner_url(url: str) -> str:
    """The URL itself; raises Stop where it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Stop(
            ExitCode.CONFIG, f"{url} is no address of a learner: write it as http://HOST:PORT"
        )
    return url


def redis_address(override: str | None, given: str) -> str:
    """The override, with the credentials of the URL that the learner gave unless it has its own."""
    if override is None:
        return given
    own, learners = urlsplit(override), urlsplit(given)
    credentials, at, _ = learners.netloc.rpartition("@")
    if own.password is not None or not at:
        return override
    return own._replace(netloc=f"{credentials}@{own.netloc}").geturl()
