"""A worker's own few settings."""

import pytest

from volley.rollout.settings import (
    EngineName,
    KvPolicy,
    VllmSettings,
    check_learner_url,
    check_vllm_settings,
    read_token,
    redis_address,
    split_engine_args,
)
from volley.rollout.vllm_environment import visible_devices
from volley.telemetry.stops import ExitCode, Stop


def test_the_token_comes_from_the_environment_or_else_from_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("from the file\n")
    assert read_token({"VOLLEY_TOKEN_FILE": str(file)}) == "from the file"
    assert read_token({"VOLLEY_TOKEN": "x", "VOLLEY_TOKEN_FILE": str(file)}) == "x"


def test_a_worker_without_a_token_is_told_to_set_one(tmp_path):
    (tmp_path / "empty").write_text("\n")
    for environment in ({}, {"VOLLEY_TOKEN_FILE": str(tmp_path / "empty")}):
        with pytest.raises(Stop, match="set VOLLEY_TOKEN"):
            read_token(environment)
    with pytest.raises(Stop, match="cannot read"):
        read_token({"VOLLEY_TOKEN_FILE": str(tmp_path / "absent")})


@pytest.mark.parametrize("url", ["localhost:8000", "redis://h:1", "http://", "/a/path"])
def test_what_is_no_http_address_is_refused(url):
    with pytest.raises(Stop, match="http://HOST:PORT"):
        check_learner_url(url)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (None, "redis://:secret@127.0.0.1:6379/1"),
        ("redis://10.0.0.5:7000/1", "redis://:secret@10.0.0.5:7000/1"),
        ("redis://:own@10.0.0.5:7000", "redis://:own@10.0.0.5:7000"),
    ],
)
def test_another_address_of_redis_keeps_the_learners_credentials(override, expected):
    assert redis_address(override, "redis://:secret@127.0.0.1:6379/1") == expected


def test_an_address_without_credentials_needs_none():
    assert redis_address("redis://a:1", "redis://b:2") == "redis://a:1"


@pytest.mark.parametrize(
    ("given", "option"),
    [
        (VllmSettings(tensor_parallel_size=2), "--tensor-parallel-size"),
        (VllmSettings(kv_policy=KvPolicy.KEEP), "--kv-policy"),
        (VllmSettings(engine_args=(("block_size", "64"),)), "--engine-arg"),
    ],
)
def test_what_only_vllm_heeds_is_refused_for_other_engines(given, option):
    assert check_vllm_settings(EngineName.VLLM, given) == given
    with pytest.raises(Stop, match=f"{option} is for --engine vllm, not transformers") as stop:
        check_vllm_settings(EngineName.TRANSFORMERS, given)
    assert stop.value.code is ExitCode.CONFIG
    assert check_vllm_settings(EngineName.TRANSFORMERS, VllmSettings()) == VllmSettings()


def test_engine_arguments_are_names_and_values():
    assert split_engine_args(["max-num-batched-tokens=8192", 'x={"a": "b=c"}']) == (
        ("max_num_batched_tokens", "8192"),
        ("x", '{"a": "b=c"}'),
    )
    for wrong in ("enforce_eager", "=1"):
        with pytest.raises(Stop, match="NAME=VALUE"):
            split_engine_args([wrong])


def test_devices_are_counted_among_those_that_are_visible():
    assert visible_devices(1, 1, visible=None) == "1"
    assert visible_devices(2, 2, visible=None) == "2,3"
    assert visible_devices(1, 2, visible="3,5,7") == "5,7"
    with pytest.raises(Stop, match="CUDA_VISIBLE_DEVICES=3,5,7"):
        visible_devices(2, 2, visible="3,5,7")
