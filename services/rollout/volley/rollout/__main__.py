"""`volley rollout --learner URL`: read the settings, set up logs, then load the rest and work."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from volley.rollout.settings import (
    EngineName,
    KvPolicy,
    VllmSettings,
    WorkerSettings,
    check_learner_url,
    check_vllm_settings,
    read_token,
    split_engine_args,
)
from volley.telemetry.logs import set_up_logs
from volley.telemetry.stops import reporting_stops

EXAMPLES = """
Examples:

VOLLEY_TOKEN=secret volley rollout --learner http://10.0.0.5:8000

VOLLEY_TOKEN_FILE=token volley rollout --learner http://learner:8000 --device cuda:1 --code rewards/

volley rollout --learner http://10.0.0.5:8000 --engine vllm --kv-cache-memory-bytes 8000000000
"""


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


Redis = Annotated[
    str | None,
    typer.Option(
        envvar="VOLLEY_REDIS_URL",
        help="Address of Redis, if the one that the learner gives is not reachable from here.",
    ),
]
Code = Annotated[
    Path | None, typer.Option(help="Folder with the run's reward code.", show_default=False)
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Answer /healthz, /readyz and, with the token, /metrics there; 0: on a free port.",
        show_default=False,
    ),
]
MetricsHost = Annotated[str, typer.Option(help="The address that --metrics-port is on.")]
# As the learner's own variables, so that both can be told in the same words.
LogFormatOption = Annotated[
    LogFormat, typer.Option(envvar="VOLLEY_LOGGING__FORMAT", help="For people, or for machines.")
]
LogLevelOption = Annotated[
    LogLevel,
    typer.Option(envvar="VOLLEY_LOGGING__LEVEL", help="DEBUG shows prompts and completions too."),
]

VLLM = "Only with --engine vllm"
TensorParallelSize = Annotated[
    int, typer.Option(min=1, help="Devices to split the model over.", rich_help_panel=VLLM)
]
Dtype = Annotated[
    str | None,
    typer.Option(help="Of the weights, if not the run's: bfloat16, ...", rich_help_panel=VLLM),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Most tokens of prompt and completion; left out: what run and KV memory allow.",
        rich_help_panel=VLLM,
    ),
]
KvCacheMemoryBytes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Memory for keys and values, on each device; left out: 4 GiB, on a CPU 256 MiB.",
        rich_help_panel=VLLM,
    ),
]
EnforceEager = Annotated[
    bool, typer.Option(help="Start faster, sample slower on a GPU.", rich_help_panel=VLLM)
]
KvPolicyOption = Annotated[
    KvPolicy,
    typer.Option(
        help="Keys and values of running requests at a swap: exact, or faster and approximate.",
        rich_help_panel=VLLM,
    ),
]
EngineArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-arg",
        metavar="NAME=VALUE",
        help="Any other engine argument of vLLM; repeatable.",
        rich_help_panel=VLLM,
    ),
]


def rollout(
    context: typer.Context,
    learner: Annotated[str, typer.Option(help="The URL that the learner prints.")],
    redis: Redis = None,
    engine: Annotated[EngineName, typer.Option()] = EngineName.TRANSFORMERS,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine.")] = 1,
    code: Code = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Sequences sampled at once.")] = 256,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
    tensor_parallel_size: TensorParallelSize = 1,
    dtype: Dtype = None,
    max_model_len: MaxModelLen = None,
    kv_cache_memory_bytes: KvCacheMemoryBytes = None,
    enforce_eager: EnforceEager = False,
    kv_policy: KvPolicyOption = KvPolicy.RECOMPUTE,
    engine_arg: EngineArgs = None,
) -> None:
    """Sample groups for a learner, anywhere: needs its URL and VOLLEY_TOKEN (or VOLLEY_TOKEN_FILE).

    Joins a run at any time and may leave at any time (Ctrl-C, SIGTERM).
    """
    with reporting_stops():
        set_up_logs("rollout", log_level, log_format.value)
        vllm = VllmSettings(
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            max_model_len=max_model_len,
            kv_cache_memory_bytes=kv_cache_memory_bytes,
            enforce_eager=enforce_eager,
            kv_policy=kv_policy,
            engine_args=split_engine_args(engine_arg or []),
        )
        settings = WorkerSettings(
            learner_url=check_learner_url(learner),
            token=read_token(),
            redis_url=redis,
            engine=engine,
            device=device,
            num_threads=threads,
            code_folder=code,
            max_num_seqs=max_num_seqs,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            vllm=check_vllm_settings(engine, vllm),
        )
        (context.obj or run)(settings)


def run(settings: WorkerSettings) -> None:
    """Import what is heavy and work; where `rollout` has another object, that is called instead."""
    from volley.rollout.assembly import run_worker
    from volley.rollout.worker import leave_on_signals

    run_worker(settings, leave_on_signals())


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLES)(rollout)
    app()
