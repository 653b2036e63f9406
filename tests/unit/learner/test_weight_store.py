import threading

import pytest
import torch
from safetensors.torch import load_file

from volley.learner.weight_store import WeightStore, root_of_tensors
from volley.schemas.groups import Version
from volley.transport.tensors import hash_bytes, root_of


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"b": torch.full((2, 3), value), "a": torch.tensor([1.0], dtype=torch.bfloat16)}


@pytest.fixture
def store(tmp_path):
    return WeightStore(tmp_path, run="r", keep=2)


def test_the_bytes_are_readable_when_the_manifest_names_them(store, tmp_path):
    read: list[dict[str, torch.Tensor]] = []

    def listener():
        manifest = store.head
        with store.pinned(manifest.anchor.hash) as path:
            content = path.read_bytes()
            assert hash_bytes(content) == manifest.anchor.hash
            assert len(content) == manifest.anchor.num_bytes
            assert root_of(content) == manifest.root
            read.append(load_file(path))

    with store.listening(listener):
        store.publish(tensors(2.0), Version(1, 0))
    assert torch.equal(read[0]["b"], tensors(2.0)["b"])


def test_old_anchors_go_but_not_while_they_are_being_read(store, tmp_path):
    first = store.publish(tensors(0.0), Version(1, 0)).anchor.hash
    with store.pinned(first) as path:
        for step in range(1, 4):
            store.publish(tensors(float(step)), Version(1, step))
        assert path is not None
        assert path.exists()
        assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    with store.pinned(first) as path:
        assert path is None


def test_the_same_tensors_have_the_same_root_under_another_version(store):
    first = store.publish(tensors(1.0), Version(1, 0))
    second = store.publish(tensors(1.0), Version(1, 1))
    assert (first.root, first.anchor) == (second.root, second.anchor)
    with store.pinned(second.anchor.hash) as path:
        assert path is not None


def test_the_root_depends_on_names_shapes_and_bytes(store):
    roots = [
        store.publish(content, Version(1, step)).root
        for step, content in enumerate(
            [
                {"a": torch.zeros(4)},
                {"b": torch.zeros(4)},
                {"a": torch.zeros(2, 2)},
                {"a": torch.tensor([0.0, 0.0, 0.0, 1e-45])},
            ]
        )
    ]
    assert len(set(roots)) == 4


def test_the_root_of_tensors_is_that_of_their_file(store):
    assert root_of_tensors(tensors(3.0)) == store.publish(tensors(3.0), Version(1, 0)).root


def test_adapters_come_and_go_beside_a_base_that_stays(store, tmp_path):
    base = store.add_base(tensors(0.0))
    for step in range(4):
        manifest = store.stage_adapters(
            base, {"change": torch.tensor(float(step))}, f"root {step}", Version(1, step)
        )
        store.announce(manifest)
    assert store.head == manifest
    assert (manifest.root, manifest.anchor) == ("root 3", base)
    assert len(list(tmp_path.iterdir())) == 1 + 2
    with store.pinned(base.hash) as kept, store.pinned(manifest.adapters.hash) as newest:
        assert torch.equal(load_file(kept)["b"], tensors(0.0)["b"])
        assert load_file(newest)["change"] == 3
    store.finish()
    assert store.head.finished
    assert store.head.adapters == manifest.adapters


def test_the_end_of_the_run_is_announced(store):
    store.publish(tensors(0.0), Version(1, 0))
    told = threading.Event()
    with store.listening(told.set):
        store.finish()
    assert told.is_set()
    assert store.head.finished
