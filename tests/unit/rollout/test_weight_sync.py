"""Downloaded weights against a learner's real API, and against one whose bytes are wrong."""

import logging
from collections.abc import Callable, Iterator

import msgspec
import pytest
import torch
from safetensors.torch import save

from tests.scripted_learner import ScriptedLearner
from tests.serving import TOKEN, serving
from tests.waiting import wait_until
from volley.learner.weight_store import WeightStore, root_of_tensors
from volley.rollout.weight_sync import VerifiedWeights, WeightSync
from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import Blob
from volley.telemetry.stops import Stop
from volley.transport.learner_client import LearnerClient
from volley.transport.low_rank import LowRank, pack_changes
from volley.transport.tensors import hash_bytes, root_of


@pytest.fixture
def store(tmp_path):
    return WeightStore(tmp_path, "r", keep=2)


@pytest.fixture
def learner_url(store):
    with serving(store) as url:
        yield url


@pytest.fixture
def follow() -> Iterator[Callable[..., WeightSync]]:
    syncs = []

    def start(url: str, run: str = "r", token: str = TOKEN) -> WeightSync:
        client = LearnerClient(url, token)
        syncs.append((WeightSync(client, run, wait_s=0.2), client))
        syncs[-1][0].start()
        return syncs[-1][0]

    yield start
    for sync, client in syncs:
        sync.close(timeout_s=10)
        client.close()


@pytest.fixture
def sync(follow, learner_url):
    return follow(learner_url)


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 2), float(step)), "b": torch.arange(4, dtype=torch.bfloat16) + step}


def wait_for_head(sync: WeightSync, step: int) -> None:
    wait_until(lambda: sync.head is not None and sync.head.version.step == step)


def publish(store: WeightStore, step: int) -> Manifest:
    return store.publish(tensors_of(step), Version(1, step))


def publish_adapters(store: WeightStore, base: Blob, step: int, root: str = "") -> Manifest:
    """Adapters that add `step` to the first tensor of `tensors_of(0)`, as the root says."""
    change = LowRank(torch.ones(1, 2), torch.full((3, 1), step / 2), torch.tensor(2.0))
    root = root or root_of_tensors(adapted(step))
    manifest = store.stage_adapters(base, pack_changes({"a": change}), root, Version(1, step))
    store.announce(manifest)
    return manifest


def adapted(step: int) -> dict[str, torch.Tensor]:
    return tensors_of(0) | {"a": tensors_of(step)["a"]}


def assert_are(
    weights: VerifiedWeights | None,
    step: int,
    expected_of: Callable[[int], dict[str, torch.Tensor]] = tensors_of,
) -> None:
    assert weights is not None
    assert weights.manifest.version == Version(1, step)
    tensors = weights.tensors()
    assert tensors.keys() == expected_of(step).keys()
    for name, tensor in expected_of(step).items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


def test_published_weights_are_offered_once(store, sync):
    manifest = publish(store, 0)
    assert sync.wait(timeout_s=20)
    with sync.newest() as weights:
        assert_are(weights, 0)
    assert sync.head == manifest
    with sync.newest() as weights:
        assert weights is None
    assert not sync.wait(timeout_s=0)


def test_the_newest_weights_win_over_those_that_nobody_took(store, sync):
    for step in range(4):
        publish(store, step)
        wait_for_head(sync, step)
    publish(store, 4)

    def newest_is_here():
        with sync.newest() as weights:
            return weights and weights.manifest.version.step == 4

    wait_until(newest_is_here)


def test_weights_stay_as_they_are_while_they_are_being_loaded(store, sync):
    publish(store, 0)
    assert sync.wait(timeout_s=20)
    with sync.newest() as weights:
        for step in (1, 2):
            publish(store, step)
            wait_for_head(sync, step)
        assert sync.wait(timeout_s=20)
        assert root_of(weights.content) == weights.manifest.root
        assert_are(weights, 0)


def test_two_buffers_serve_every_version(store, sync):
    buffers = set()
    for step in range(6):
        publish(store, step)
        assert sync.wait(timeout_s=20)
        with sync.newest() as weights:
            assert_are(weights, step)
            buffers.add(id(weights.content))
    assert len(buffers) == 2


def test_flipped_bits_are_refused_until_the_right_bytes_come(store, follow, learner_url, tmp_path):
    manifest = publish(store, 0)
    file = tmp_path / f"{manifest.anchor.hash}.safetensors"
    right = file.read_bytes()
    file.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    sync = follow(learner_url)
    wait_until(lambda: sync.num_refused)
    with sync.newest() as weights:
        assert weights is None
    file.write_bytes(right)
    assert sync.wait(timeout_s=20)
    with sync.newest() as weights:
        assert_are(weights, 0)


def test_another_root_than_announced_is_refused_and_logged(follow, caplog):
    content = save(tensors_of(0))
    blob = Blob(hash_bytes(content), len(content))
    lying = Manifest(SCHEMA_VERSION, "r", Version(1, 0), "another root", blob)
    with ScriptedLearner() as learner:
        learner.script.bodies = {
            "/v1/weights": msgspec.json.encode(lying),
            f"/v1/blobs/{blob.hash}": content,
        }
        sync = follow(learner.url)
        wait_until(lambda: "announced another root" in caplog.text)
        assert sync.num_refused
        with sync.newest() as weights:
            assert weights is None
        sync.close(timeout_s=10)


def test_adapters_are_added_to_a_base_that_is_downloaded_once(store, sync, tmp_path):
    base = store.add_base(tensors_of(0))
    for step in range(4):
        publish_adapters(store, base, step)
        assert sync.wait(timeout_s=20)
        with sync.newest() as weights:
            assert_are(weights, step, adapted)
        (tmp_path / f"{base.hash}.safetensors").unlink(missing_ok=True)


def test_another_base_is_downloaded_and_whole_tensors_need_none(store, sync):
    def offered(step, expected_of):
        assert sync.wait(timeout_s=20)
        with sync.newest() as weights:
            assert_are(weights, step, expected_of)

    publish_adapters(store, store.add_base(tensors_of(0)), 1)
    offered(1, adapted)
    publish(store, 2)
    offered(2, tensors_of)
    other = {name: tensor + 1 for name, tensor in tensors_of(0).items()}
    moved = {name: tensor + 1 for name, tensor in adapted(3).items()}
    publish_adapters(store, store.add_base(other), 3, root_of_tensors(moved))
    offered(3, lambda step: moved)


def test_adapters_that_make_another_root_are_refused_and_the_base_fetched_again(
    store, sync, tmp_path
):
    base = store.add_base(tensors_of(0))
    publish_adapters(store, base, 0)
    assert sync.wait(timeout_s=20)
    with sync.newest() as weights:
        assert_are(weights, 0, adapted)
    file = tmp_path / f"{base.hash}.safetensors"
    right = file.read_bytes()
    file.write_bytes(right[:-1] + b"?")
    publish_adapters(store, base, 1, "another root")
    # The second time because of the base, which is read again.
    wait_until(lambda: sync.num_refused >= 2)
    publish_adapters(store, base, 2)
    wait_for_head(sync, 2)
    with sync.newest() as weights:
        assert weights is None
    file.write_bytes(right)
    assert sync.wait(timeout_s=20)
    with sync.newest() as weights:
        assert_are(weights, 2, adapted)


def test_adapters_that_do_not_fit_their_base_are_refused_and_logged(store, sync, caplog):
    publish_adapters(store, store.add_base({"other": torch.zeros(2)}), 1)
    wait_until(lambda: "a change of a, which the base does not have" in caplog.text)
    assert sync.num_refused
    publish_adapters(store, store.add_base(tensors_of(0)), 2)
    assert sync.wait(timeout_s=20)
    with sync.newest() as weights:
        assert_are(weights, 2, adapted)


def test_the_end_of_the_run_is_seen(store, sync):
    publish(store, 0)
    assert sync.wait(timeout_s=20)
    assert not sync.is_finished
    store.finish()
    wait_until(lambda: sync.is_finished)


def test_another_run_at_the_same_address_stops_the_worker(store, follow, learner_url):
    publish(store, 0)
    sync = follow(learner_url, run="mine")
    with pytest.raises(Stop, match="now serves run 'r'"):
        wait_until(sync.check)


def test_a_token_that_is_no_longer_right_stops_the_worker(follow, learner_url):
    sync = follow(learner_url, token="old")
    with pytest.raises(Stop, match="VOLLEY_TOKEN"):
        wait_until(sync.check)


def test_a_learner_that_is_away_is_waited_for_with_one_line_in_the_log(follow, store, caplog):
    caplog.set_level(logging.INFO)
    publish(store, 0)
    with serving(store) as url:
        sync = follow(url)
        assert sync.wait(timeout_s=20)
        with sync.newest() as weights:
            assert_are(weights, 0)
    wait_until(lambda: "waiting for the learner" in caplog.text)
    with serving(store, port=int(url.rpartition(":")[2])):
        publish(store, 1)
        assert sync.wait(timeout_s=20)
        sync.close(timeout_s=10)
    assert caplog.text.count("waiting for the learner") == 1
    assert caplog.text.count("is back") == 1
