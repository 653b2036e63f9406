import json

import pytest
import torch
from safetensors import safe_open

from tests.checkpoints import make_state
from tests.tiny_models import save_tiny_gpt2, save_tiny_qwen3
from volley.learner.checkpoint import Checkpoints
from volley.learner.export import export
from volley.learner.masters import AdamWRules, Masters
from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.telemetry.stops import Stop

CONFIG = """
[model]
path = "{model}"
dtype = "{dtype}"
[data]
train = "train.jsonl"
"""


def write_run(folder, steps=(50, 100), dtype="bfloat16", save_model=save_tiny_qwen3) -> Policy:
    """A run folder with a checkpoint at each of these steps; returns the policy of the last."""
    settings = ModelSettings(path=str(save_model(folder / "model")), dtype=dtype)
    (folder / "checkpoints").mkdir()
    (folder / "config.toml").write_text(CONFIG.format(model=settings.path, dtype=dtype))
    policy = Policy.load(settings, "cpu")
    masters = Masters(policy.parameters(), AdamWRules(0.9, 0.95, 1e-8, 0.0, 1.0))
    for step in steps:
        for parameter in policy.parameters().values():
            parameter.grad = torch.ones_like(parameter)
        masters.add_gradients()
        masters.step(learning_rate=0.01)
        Checkpoints(folder / "checkpoints", keep=2).save(make_state(step), masters.tensors())
    return policy


def load(folder) -> Policy:
    return Policy.load(ModelSettings(path=str(folder), dtype="bfloat16"), "cpu")


def assert_same_weights(one: Policy, other: Policy) -> None:
    expected = other.published_tensors()
    assert one.published_tensors().keys() == expected.keys()
    for name, tensor in one.published_tensors().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("save_model", [save_tiny_qwen3, save_tiny_gpt2])
def test_the_newest_checkpoint_becomes_a_folder_that_loads(tmp_path, save_model):
    policy = write_run(tmp_path, save_model=save_model)
    export(tmp_path, tmp_path / "a" / "out", None)
    loaded = load(tmp_path / "a" / "out")
    assert_same_weights(loaded, policy)
    assert loaded.tokenise(["sort ba=>"]) == policy.tokenise(["sort ba=>"])
    assert loaded.stop_token_ids() == policy.stop_token_ids()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_a_checkpoint_can_be_chosen_by_its_step(tmp_path):
    write_run(tmp_path)
    export(tmp_path, tmp_path / "out", 50)
    # The same model, one step from the same start.
    (tmp_path / "other").mkdir()
    assert_same_weights(load(tmp_path / "out"), write_run(tmp_path / "other", steps=(50,)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_have_the_dtype_of_the_run(tmp_path, dtype):
    write_run(tmp_path, dtype=dtype)
    export(tmp_path, tmp_path / "out", None)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        dtypes = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
    assert dtypes == {f"torch.{dtype}"}


def test_a_step_between_checkpoints_is_answered_with_those_there_are(tmp_path):
    write_run(tmp_path)
    with pytest.raises(Stop, match=r"--step 70 has no checkpoint; these steps have: 50, 100"):
        export(tmp_path, tmp_path / "out", 70)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("mine")
    with pytest.raises(Stop, match=r"OUT: .* is not empty"):
        export(tmp_path, tmp_path / "out", None)
    assert (tmp_path / "out" / "config.json").read_text() == "mine"


def test_an_empty_folder_may_be_filled(tmp_path):
    policy = write_run(tmp_path)
    (tmp_path / "out").mkdir()
    export(tmp_path, tmp_path / "out", None)
    assert_same_weights(load(tmp_path / "out"), policy)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(Stop, match=r"RUN_DIR: .* holds no run"):
        export(tmp_path, tmp_path / "out", None)


def test_a_run_without_a_checkpoint_is_told_when_there_will_be_one(tmp_path):
    write_run(tmp_path, steps=())
    with pytest.raises(Stop, match=r"no whole checkpoint: one is saved every 50 steps"):
        export(tmp_path, tmp_path / "out", None)


def test_another_model_under_the_same_path_is_refused(tmp_path):
    write_run(tmp_path)
    save_tiny_gpt2(tmp_path / "model")
    with pytest.raises(Stop, match=r"is not the model that .* trained: master\."):
        export(tmp_path, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()
