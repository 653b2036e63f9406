"""What of a policy gets into the store."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from volley.learner.policy import Policy
from volley.learner.publisher import Publisher
from volley.learner.settings import ModelSettings
from volley.learner.weight_store import WeightStore, root_of_tensors
from volley.schemas.groups import Version
from volley.schemas.run_spec import Blob
from volley.transport.low_rank import add_change, unpack_changes


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path, "r", keep=2)


def load(folder: Path, **changes: object) -> Policy:
    return Policy.load(ModelSettings.model_validate({"path": str(folder)} | changes), "cpu")


def move(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def read(store: WeightStore, blob: Blob) -> dict[str, torch.Tensor]:
    with store.pinned(blob.hash) as path:
        assert path is not None
        return load_file(path)


def test_a_policy_without_adapters_is_published_whole(qwen3_folder: Path, store: WeightStore):
    policy = load(qwen3_folder)
    manifest = Publisher(policy, store).stage(Version(1, 0))
    assert manifest.adapters is None
    assert manifest.root == root_of_tensors(policy.published_tensors())
    assert read(store, manifest.anchor).keys() == policy.published_tensors().keys()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_and_adapters_make_the_root_of_the_published_tensors(
    qwen3_folder: Path, store: WeightStore, dtype: str, tmp_path: Path
):
    policy = load(qwen3_folder, dtype=dtype, lora_r=2)
    publisher = Publisher(policy, store)
    manifests = []
    for step in range(2):
        manifests.append(publisher.stage(Version(1, step)))
        move(policy)
    assert manifests[0].anchor == manifests[1].anchor
    assert manifests[0].root != manifests[1].root
    for manifest in manifests:
        assert manifest.adapters is not None
        tensors = read(store, manifest.anchor)
        for name, change in unpack_changes(read(store, manifest.adapters)).items():
            add_change(tensors[name], change)
        assert root_of_tensors(tensors) == manifest.root
    assert len(list(tmp_path.iterdir())) == 3
