"""What is wrong with a model's folder is said in words, before anything starts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_models import save_tiny_mixtral
from volley.learner.policy import Policy
from volley.learner.pretrained import resolve_device
from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop


@pytest.fixture
def broken(qwen3_folder: Path, tmp_path: Path) -> Path:
    """A copy of a good folder, to be broken."""
    return Path(shutil.copytree(qwen3_folder, tmp_path / "broken"))


def stop_of(folder: Path) -> str:
    with pytest.raises(Stop) as caught:
        Policy.load(ModelSettings(path=str(folder), dtype="float32"), "cpu")
    assert caught.value.code is ExitCode.CONFIG
    assert caught.value.message.startswith("model.path: ")
    return caught.value.message


def test_a_folder_that_is_not_there():
    assert "there is no folder /nowhere: give the folder of a causal" in stop_of(Path("/nowhere"))


def test_a_folder_without_tokenizer(broken: Path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    assert "has no tokenizer" in stop_of(broken)


def test_a_model_that_is_not_a_causal_language_model(broken: Path):
    (broken / "config.json").write_text(json.dumps({"model_type": "t5"}))
    assert "AutoModelForCausalLM" in stop_of(broken)


def test_a_configuration_that_is_not_json(broken: Path):
    (broken / "config.json").write_text("{")
    assert "not a valid JSON" in stop_of(broken)


def test_a_weights_file_that_was_cut_off(broken: Path):
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be used" in stop_of(broken)


def test_weights_that_lack_a_tensor_are_not_filled_with_noise(broken: Path):
    weights = broken / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.norm.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert stop_of(broken).endswith("model.norm.weight")


def test_fused_experts_cannot_be_published_under_their_own_names(tmp_path: Path):
    message = stop_of(save_tiny_mixtral(tmp_path))
    assert "MixtralForCausalLM" in message
    assert "cannot be published yet" in message


@pytest.mark.parametrize("name", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there(name: str):
    with pytest.raises(Stop, match=f"device {name} cannot be used") as caught:
        resolve_device(name)
    assert caught.value.code is ExitCode.CONFIG


def test_auto_is_a_device_that_works():
    assert torch.ones(2, device=resolve_device("auto")).sum().item() == 2
