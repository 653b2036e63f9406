"""vLLM as its settings make it: split over processes, in bfloat16, keeping keys and values."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from tests.sampling import (
    FIRST,
    SECOND,
    assert_each_version_agrees,
    assert_logprobs_agree,
    make_request,
    published,
    recomputed_logprobs,
    reloaded,
    run,
)
from tests.tiny_models import load_plain, save_tiny_qwen3
from volley.rollout.settings import KvPolicy, VllmSettings
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import root_of

if TYPE_CHECKING:
    from volley.rollout.engine_vllm import VllmEngine

# vLLM's own warnings are not ours to mend.
pytestmark = [pytest.mark.usefixtures("vllm"), pytest.mark.filterwarnings("ignore")]

CONTEXT_LENGTH = 160
StartEngine = Callable[..., "VllmEngine"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    # Tied: what vLLM's CPU kernels get wrong first.
    return save_tiny_qwen3(folder, tied=True, context_length=CONTEXT_LENGTH)


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return load_plain(folder)


@pytest.fixture
def start_engine(folder: Path) -> Iterator[StartEngine]:
    """Engines with room for 16 sequences."""
    from volley.rollout.engine_vllm import VllmEngine

    engines = []

    def start(settings: VllmSettings, dtype: str = "float32", device: str = "cpu") -> VllmEngine:
        engines.append(VllmEngine(folder, dtype, device, 16, CONTEXT_LENGTH, settings))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def test_a_model_split_over_two_processes_is_swapped_in_mid_generation(
    start_engine, model, tmp_path
):
    engine = start_engine(VllmSettings(tensor_parallel_size=2))
    requests = [make_request(index, num_tokens) for index, num_tokens in enumerate((3, 40))]
    engine.load(published(model), FIRST)
    for request in requests:
        engine.add(request)
    for _ in range(3):
        assert not engine.step().finished
    for part in multiprocessing.active_children():
        assert part.pid is not None
        # As Ctrl-C does. What was begun is to be finished all the same.
        os.kill(part.pid, signal.SIGINT)
    second = published(model, scale=0.8)
    engine.load(second, SECOND)
    groups = {group.request_id: group for _ in range(5) for group in engine.step().finished}
    models = {FIRST: model, SECOND: reloaded(model, second)}
    for request in requests:
        for sample in groups[request.id].samples:
            assert [span.num_tokens for span in sample.version_spans] == [3, 5]
            assert_each_version_agrees(models, request, sample)
    assert_a_file_with_another_root_is_loaded_by_none(engine, second, tmp_path)
    engine.load(second, SECOND)
    for sample in run(engine, requests[0])[requests[0].id]:
        assert_logprobs_agree(models[SECOND], requests[0], sample)
    engine.close()
    assert multiprocessing.active_children() == []


def assert_a_file_with_another_root_is_loaded_by_none(
    engine: "VllmEngine", tensors: dict[str, torch.Tensor], folder: Path
) -> None:
    from volley.rollout.weight_transfer import WeightsInFile, failure_of

    path = folder / "weights.safetensors"
    save_file(tensors, path)
    root = root_of(path.read_bytes())
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    weights = WeightsInFile(path, root)
    vllm = engine._vllm
    vllm.collective_rpc("start_weight_update")
    vllm.collective_rpc("update_weights", kwargs={"update_info": {"weights": weights}})
    vllm.collective_rpc("finish_weight_update")
    failures = vllm.collective_rpc(failure_of)
    assert len(failures) == 2
    assert all("does not have the root" in failure for failure in failures)


def test_tied_embeddings_in_bfloat16_are_swapped_as_well(start_engine, model):
    # Its own kernels for this type copy small weights where the processor has AMX.
    engine = start_engine(VllmSettings(), dtype="bfloat16")
    request = make_request(0, 5)
    for version, scale in ((FIRST, 1.0), (SECOND, 0.5)):
        tensors = {name: t.bfloat16() for name, t in published(model, scale).items()}
        engine.load(tensors, version)
        rounded = reloaded(model, tensors)
        for sample in run(engine, request)[request.id]:
            expected_T = recomputed_logprobs(rounded, request, sample)
            torch.testing.assert_close(torch.tensor(sample.logprobs), expected_T, atol=0.25, rtol=0)


def test_kept_keys_and_values_are_those_of_running_requests_alone(start_engine, model):
    engine = start_engine(VllmSettings(kv_policy=KvPolicy.KEEP))
    running, later = make_request(0, 100), make_request(0, 100)
    engine.load(published(model), FIRST)
    engine.add(running)
    for _ in range(3):
        engine.step()
    second = published(model, scale=0.6)
    engine.load(second, SECOND)
    (group,) = [group for _ in range(5) for group in engine.step().finished]
    model_then, model_now = model, reloaded(model, second)
    for sample in group.samples:
        assert [span.num_tokens for span in sample.version_spans] == [3, 5]
        actual_T = torch.tensor(sample.logprobs)
        then_T = recomputed_logprobs(model_then, running, sample)
        torch.testing.assert_close(actual_T[:3], then_T[:3], atol=1e-4, rtol=0)
        now_T = recomputed_logprobs(model_now, running, sample)
        assert not torch.allclose(actual_T[3:], now_T[3:], atol=1e-2)
    for sample in run(engine, later)[later.id]:
        assert_logprobs_agree(model_now, later, sample)


def test_too_little_memory_for_one_token_is_said_with_the_option(start_engine):
    with pytest.raises(Stop, match="--kv-cache-memory-bytes") as stop:
        start_engine(VllmSettings(kv_cache_memory_bytes=1000))
    assert stop.value.code is ExitCode.ENVIRONMENT


def test_contexts_are_as_long_as_the_memory_for_keys_and_values_allows(start_engine):
    # Two layers of 32 keys and 32 values of 4 bytes each, in blocks of 32 tokens.
    engine = start_engine(VllmSettings(kv_cache_memory_bytes=3 * 32 * 512))
    engine.add(make_request(0, 56))
    with pytest.raises(ValueError, match="context of 64 tokens"):
        engine.add(make_request(1, 57))


def test_another_device_than_vllm_computes_on_is_refused(start_engine):
    with pytest.raises(Stop, match=r"--device cuda:0: the installed vLLM computes on cpu"):
        start_engine(VllmSettings(), device="cuda:0")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("max_num_batch_tokens", "did you mean max_num_batched_tokens"),
        ("max_model_len", "give it as --max-model-len"),
        ("logprobs_mode", "Volley sets it"),
        ("trust_remote_code", "never from a model's folder"),
    ],
)
def test_an_argument_that_vllm_or_volley_will_not_have_is_refused(start_engine, name, problem):
    with pytest.raises(Stop, match=problem) as stop:
        start_engine(VllmSettings(engine_args=((name, "1"),)))
    assert stop.value.code is ExitCode.CONFIG
    assert f"--engine-arg {name}" in stop.value.message


def test_arguments_reach_vllm_as_json_or_text(folder):
    from volley.rollout.vllm_arguments import engine_arguments

    added = (("enable_prefix_caching", "false"), ("block_size", "64"), ("kv_cache_dtype", "auto"))
    arguments = engine_arguments(
        folder, "float32", "cpu", 16, CONTEXT_LENGTH, VllmSettings(engine_args=added)
    )
    assert arguments.enable_prefix_caching is False
    assert arguments.block_size == 64
    assert arguments.kv_cache_dtype == "auto"
