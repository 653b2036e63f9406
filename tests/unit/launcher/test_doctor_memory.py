"""Memory needed against there, in numbers that can be added up by hand."""

import inspect
from collections.abc import Mapping
from pathlib import Path

import pytest

import volley.rollout.__main__ as rollout
from volley.launcher.doctor_devices import (
    CPU,
    device_findings,
    missing_device_findings,
    resolve_device,
)
from volley.launcher.doctor_memory import (
    CONTEXT_BYTES,
    MAX_NUM_SEQS,
    PROCESS_BYTES,
    VLLM_KV_BYTES,
    VLLM_KV_BYTES_CPU,
    Need,
    Share,
    judge_device,
    need_of,
)
from volley.launcher.doctor_probe import Device
from volley.launcher.findings import GIB, Level
from volley.launcher.sizing import LOGITS_BYTES, ModelShape
from volley.learner.settings import DevicesSettings, Settings

# 1000 parameters; a token's keys and values are 2 x 2 x 1 x 4 = 16 values.
MODEL = ModelShape(1000, 2, 50, 8, 1, 4)
WEIGHTS = 2000
CARD = Device("cuda:0", "a card", 70 * GIB, 80 * GIB)


def settings(**sections: Mapping[str, object]) -> Settings:
    needed = {"model": {"path": "m"}, "data": {"train": "t.jsonl"}}
    return Settings.model_validate(needed | sections)


def test_on_the_cpu_learner_and_worker_share_main_memory():
    need = need_of(settings(), MODEL, [], vllm=True)
    learner = 20 * 1000 + LOGITS_BYTES + WEIGHTS + PROCESS_BYTES
    worker = WEIGHTS + 2 * WEIGHTS + VLLM_KV_BYTES_CPU + PROCESS_BYTES
    assert need.fixed_bytes(CPU) == learner + worker
    assert need.bytes_per_token(CPU) == 65 * 8 * 2


def test_on_one_gpu_each_process_adds_its_context_and_main_memory_holds_the_downloads():
    need = need_of(settings(), MODEL, [CARD], vllm=True)
    assert (
        need.fixed_bytes("cuda:0") == 22 * 1000 + LOGITS_BYTES + VLLM_KV_BYTES + 2 * CONTEXT_BYTES
    )
    assert need.fixed_bytes(CPU) == 3 * WEIGHTS + 2 * PROCESS_BYTES
    assert need.bytes_per_token(CPU) == 0


def test_each_worker_adds_its_own():
    devices = {"learner": "cpu", "rollout": ["cuda:0", "cuda"]}
    need = need_of(settings(devices=devices), MODEL, [CARD], vllm=True)
    assert need.fixed_bytes("cuda:0") == 2 * (WEIGHTS + VLLM_KV_BYTES + CONTEXT_BYTES)


def test_adapters_alone_are_trained_beside_the_frozen_weights():
    need = need_of(settings(model={"path": "m", "lora_r": 3}), MODEL, [CARD], vllm=True)
    learner = WEIGHTS + 20 * 3 * 50 + LOGITS_BYTES
    assert need.fixed_bytes("cuda:0") == learner + WEIGHTS + VLLM_KV_BYTES + 2 * CONTEXT_BYTES
    # A worker keeps what the adapters are added to beside its two buffers.
    assert need.fixed_bytes(CPU) == 4 * WEIGHTS + 2 * PROCESS_BYTES


def test_a_reference_model_is_one_more_copy():
    loss = {"beta": 0.1, "kl_target": "reference"}
    with_reference = need_of(settings(loss=loss), MODEL, [], vllm=True)
    without = need_of(settings(), MODEL, [], vllm=True)
    assert with_reference.fixed_bytes(CPU) - without.fixed_bytes(CPU) == WEIGHTS


@pytest.mark.parametrize(
    "options",
    [
        ["--kv-cache-memory-bytes=5000"],
        ["--kv-cache-memory-bytes", "5000"],
        ["--max-num-seqs=8", "--engine-arg=a=b", "--kv-cache-memory-bytes=5000"],
    ],
)
def test_the_budget_of_the_workers_options_is_used(options: list[str]):
    need = need_of(settings(devices={"rollout_options": options}), MODEL, [CARD], vllm=True)
    assert need.fixed_bytes("cuda:0") == 22 * 1000 + LOGITS_BYTES + 5000 + 2 * CONTEXT_BYTES


def test_without_vllm_all_completions_may_have_their_full_length():
    given = settings(
        devices={"rollout_options": ["--max-num-seqs=8"]}, sampling={"max_completion_length": 10}
    )
    need = need_of(given, MODEL, [CARD], vllm=False)
    # 8 sequences x 10 tokens x 16 values x 2 bytes
    assert need.fixed_bytes("cuda:0") == 22 * 1000 + LOGITS_BYTES + 2560 + 2 * CONTEXT_BYTES


NEED = Need((Share(CPU, "learner", 600), Share(CPU, "workers", 100)), CPU, 30, 10, False)


def test_what_fits_is_well():
    assert judge_device(NEED, CPU, 1000).level is Level.OK


def test_too_many_activations_are_a_warning_with_the_number_of_tokens_that_fits():
    finding = judge_device(NEED, CPU, 950)
    assert finding.level is Level.WARN
    assert finding.advice == (
        "optim.micro_batch_tokens = 25 or less, or model.gradient_checkpointing = true"
    )


def test_what_fits_in_no_way_is_bad_and_says_what_takes_how_much():
    gibs = Need(
        (Share("cuda:0", "learner", 6 * GIB), Share("cuda:0", "workers", GIB)), CPU, 30, 10, True
    )
    finding = judge_device(gibs, "cuda:0", 6 * GIB)
    assert finding.level is Level.BAD
    assert finding.found == "6.0 GiB free, 7.0 GiB needed: learner 6.0 GiB, workers 1.0 GiB"
    assert finding.advice is not None
    assert "--kv-cache-memory-bytes" in finding.advice


def test_the_defaults_of_workers_are_known():
    parameters = inspect.signature(rollout.rollout).parameters
    assert parameters["max_num_seqs"].default == MAX_NUM_SEQS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(("device", "known"), [("cuda", VLLM_KV_BYTES), ("cpu", VLLM_KV_BYTES_CPU)])
def test_the_budgets_of_vllm_workers_are_known(device: str, known: int, tmp_path: Path):
    from volley.rollout.settings import VllmSettings
    from volley.rollout.vllm_arguments import engine_arguments

    arguments = engine_arguments(tmp_path, "float32", device, 256, 1024, VllmSettings())
    assert arguments.kv_cache_memory_bytes == known


def test_auto_is_the_first_accelerator_else_the_cpu():
    assert resolve_device("auto", [CARD]) == "cuda:0"
    assert resolve_device("auto", []) == CPU
    assert resolve_device("cuda", [CARD]) == "cuda:0"
    assert resolve_device("cuda:1", [CARD]) == "cuda:1"


def test_a_device_that_is_named_and_not_there_is_bad():
    wanted = DevicesSettings(learner="cuda:0", rollout=("cuda:1", "cuda:1", "auto", "cpu"))
    (finding,) = missing_device_findings(wanted, [CARD])
    assert (finding.level, finding.subject) == (Level.BAD, "cuda:1")
    assert finding.advice == "name one of: auto, cpu, cuda:0"


def test_devices_are_shown_with_their_free_memory():
    assert [f.found for f in device_findings([CARD])] == ["a card, 70.0 GiB of 80.0 GiB free"]
