"""A learner as workers see it, real API, weights and queue; the test is its loop."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import torch

from tests.tiny_models import VOCAB, save_tiny_qwen3
from tests.waiting import wait_until
from volley.learner.api import ApiServer, create_app
from volley.learner.chat_frames import framed
from volley.learner.control import Control
from volley.learner.environment_code import tool_schemas
from volley.learner.policy import Message, Policy
from volley.learner.served import Served
from volley.learner.settings import ModelSettings
from volley.learner.token import Tokens
from volley.learner.weight_store import WeightStore
from volley.schemas.codec import GroupLimits, decode_result, encode
from volley.schemas.groups import SCHEMA_VERSION, Failure, Group, Task, Version
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import (
    EnvironmentSpec,
    ModelFile,
    RewardLimits,
    RewardSpec,
    RunSpec,
    SamplingSpec,
)
from volley.schemas.status import StatusReport, WorkerReport
from volley.transport.redis_stream import LearnerQueue

TOKEN = "a-token-for-tests"
TOKENS = Tokens(reader=TOKEN, admin="an-admin-token-for-tests")
SAMPLING = SamplingSpec(4, 1.0, 6, (VOCAB["<eos>"],))
EXACT_MATCH = RewardSpec("exact_match", 1.0, None)
REWARD_LIMITS = RewardLimits(
    timeout_s=60.0, max_memory_bytes=2**30, num_processes=1, on_failure=None
)
MAX_BODY_BYTES = 2**20


class LearnerSide:
    """Serves a tiny model and a queue; entering starts the API, leaving ends the run."""

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        run: str,
        rewards: tuple[RewardSpec, ...] = (EXACT_MATCH,),
        sampling: SamplingSpec = SAMPLING,
        code_folder: Path = Path(),
        port: int = 0,
        reward_limits: RewardLimits = REWARD_LIMITS,
        environment: EnvironmentSpec | None = None,
        model_folder: Path | None = None,
    ) -> None:
        model = ModelSettings(
            path=str(model_folder or save_tiny_qwen3(folder / "model")), dtype="float32"
        )
        blobs = folder / "blobs"
        blobs.mkdir()
        self.policy = Policy.load(model, "cpu", tool_schemas(environment))
        self.store = WeightStore(blobs, run, keep=2)
        self.queue = LearnerQueue(redis_url, run, epoch=1)
        self.queue.reconcile(range(1000))
        self.spec = RunSpec(
            schema_version=SCHEMA_VERSION,
            run=run,
            model_files=tuple(
                ModelFile(name, self.store.add(content))
                for name, content in self.policy.model_files().items()
            ),
            dtype="float32",
            max_context_length=self.policy.context_length,
            vocab_size=self.policy.vocab_size,
            sampling=sampling,
            rewards=rewards,
            reward_limits=reward_limits,
            environment=framed(environment, self.policy, sampling.stop_token_ids, []),
            code_folder=str(code_folder),
            redis_url=redis_url,
            lease_s=1.0,
            max_staleness=1,
            max_body_bytes=MAX_BODY_BYTES,
        )
        control = Control(threading.Event())
        served = Served(folder, self.store, _no_status, control, self.spec)
        self._server = ApiServer(create_app(served, TOKENS), "127.0.0.1", port)
        self.url = self._server.url

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.store.finish()
        self._server.stop()
        self.queue.close()

    def publish(self, step: int, *, evaluate: bool = False) -> Manifest:
        """Slightly other weights for every step."""
        with torch.no_grad():
            for parameter in self.policy.parameters().values():
                parameter.mul_(1 + 0.01 * step)
        staged = self.store.stage(self.policy.published_tensors(), Version(1, step))
        manifest = msgspec.structs.replace(staged, evaluate=evaluate)
        self.store.announce(manifest)
        return manifest

    def task(
        self,
        number: int,
        prompt: str | list[Message] = "sort ba=",
        min_version: Version = Version(1, 0),  # noqa: B008 (frozen)
        **columns: object,
    ) -> Task:
        (prompt_ids,) = self.policy.tokenise([prompt])
        return Task(
            schema_version=SCHEMA_VERSION,
            run=self.spec.run,
            number=number,
            attempt=1,
            seed=number,
            min_version=min_version,
            prompt=prompt,
            prompt_ids=tuple(prompt_ids),
            columns=columns or {"answer": "ab"},
        )

    def issue(self, *tasks: Task) -> None:
        self.queue.issue({task.number: encode(task) for task in tasks})

    def collect(self, num_results: int, deadline_s: float = 20.0) -> dict[int, Group | Failure]:
        """The next results by number, decoded and checked as a learner does."""
        limits = GroupLimits(
            self.spec.run,
            self.spec.sampling.num_generations,
            self.spec.sampling.max_completion_length,
            len(self.spec.rewards),
            self.spec.vocab_size,
            MAX_BODY_BYTES,
        )
        results: dict[int, Group | Failure] = {}

        def all_there() -> bool:
            for delivery in self.queue.collect(block_s=0.05):
                results[delivery.number] = decode_result(delivery.body, limits)
            return len(results) >= num_results

        wait_until(all_there, deadline_s)
        return results

    def reports(self) -> list[WorkerReport]:
        return [msgspec.json.decode(body, type=WorkerReport) for body in self.queue.reports()]


def _no_status() -> StatusReport:
    raise NotImplementedError("these tests do not look at the status")
