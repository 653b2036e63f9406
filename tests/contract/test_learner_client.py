"""The client against real HTTP: a learner's own API, and one that misbehaves as told."""

import logging
import socket
import threading

import msgspec
import pytest
import torch

from tests.scripted_learner import ScriptedLearner
from tests.serving import SPEC, TOKEN, serving
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.schemas.run_spec import Blob
from volley.transport.learner_client import (
    CHUNK_BYTES,
    CorruptBlob,
    LearnerClient,
    LearnerIncompatible,
    LearnerRefused,
    LearnerUnavailable,
)
from volley.transport.tensors import hash_bytes

CONTENT = bytes(range(256)) * 4096 * 3
BLOB = Blob(hash_bytes(CONTENT), len(CONTENT))
BLOB_PATH = f"/v1/blobs/{BLOB.hash}"


@pytest.fixture
def store(tmp_path):
    return WeightStore(tmp_path, "r", keep=2)


@pytest.fixture
def learner_url(store):
    with serving(store) as url:
        yield url


@pytest.fixture
def client(learner_url):
    client = LearnerClient(learner_url, TOKEN)
    yield client
    client.close()


@pytest.fixture
def scripted():
    with ScriptedLearner() as learner:
        learner.script.bodies = {BLOB_PATH: CONTENT}
        yield learner


@pytest.fixture
def scripted_client(scripted):
    client = LearnerClient(scripted.url, TOKEN)
    yield client
    client.close()


def test_a_worker_reads_the_spec_the_head_and_the_blob_of_a_real_learner(client, store):
    assert client.run_spec() == SPEC
    published = store.publish({"w": torch.arange(1000.0)}, Version(1, 0))
    manifest = client.manifest(have=None, wait_s=0)
    assert manifest == published
    content = bytearray(manifest.anchor.num_bytes)
    client.fetch_blob(manifest.anchor, content)
    assert hash_bytes(content) == manifest.anchor.hash


def test_a_long_poll_answers_when_the_version_changes_even_if_no_tensor_did(client, store):
    first = store.publish({"w": torch.zeros(2)}, Version(1, 0))
    assert client.manifest(have=first.version, wait_s=0.05) is None
    publishing = threading.Timer(0.05, lambda: store.publish({"w": torch.zeros(2)}, Version(1, 1)))
    publishing.start()
    manifest = client.manifest(have=first.version, wait_s=30)
    publishing.join()
    assert manifest is not None
    assert manifest.version == Version(1, 1)


def test_a_wrong_token_is_refused_with_the_fix(learner_url):
    client = LearnerClient(learner_url, "wrong")
    with pytest.raises(LearnerRefused, match="VOLLEY_TOKEN"):
        client.run_spec()
    client.close()


def test_a_blob_that_is_gone_is_unavailable(client):
    with pytest.raises(LearnerUnavailable, match="404"):
        client.fetch_blob(BLOB, bytearray(BLOB.num_bytes))


def test_a_cut_download_goes_on_where_it_stopped(scripted, scripted_client):
    scripted.script.cut_after = [CHUNK_BYTES + 5, 7]
    content = bytearray(BLOB.num_bytes)
    scripted_client.fetch_blob(BLOB, content)
    assert content == CONTENT
    ranges = [headers.get("Range") for _, headers in scripted.script.seen]
    assert ranges == [None, f"bytes={CHUNK_BYTES + 5}-", f"bytes={CHUNK_BYTES + 12}-"]


def test_a_server_without_ranges_starts_over(scripted, scripted_client):
    scripted.script.knows_ranges = False
    scripted.script.cut_after = [CHUNK_BYTES]
    content = bytearray(BLOB.num_bytes)
    scripted_client.fetch_blob(BLOB, content)
    assert content == CONTENT


def test_a_download_that_never_brings_a_byte_is_unavailable(scripted, scripted_client):
    scripted.script.cut_after = [0]
    with pytest.raises(LearnerUnavailable, match=scripted.url):
        scripted_client.fetch_blob(BLOB, bytearray(BLOB.num_bytes))


def test_a_blob_that_is_shorter_than_announced_is_corrupt(scripted, scripted_client):
    scripted.script.bodies = {BLOB_PATH: CONTENT[:-1]}
    with pytest.raises(CorruptBlob, match=f"after {len(CONTENT) - 1} of {len(CONTENT)}"):
        scripted_client.fetch_blob(BLOB, bytearray(BLOB.num_bytes))


def test_a_blob_with_one_flipped_bit_is_corrupt(scripted, scripted_client):
    flipped = bytearray(CONTENT)
    flipped[1000] ^= 1
    scripted.script.bodies = {BLOB_PATH: bytes(flipped)}
    with pytest.raises(CorruptBlob, match="hash"):
        scripted_client.fetch_blob(BLOB, bytearray(BLOB.num_bytes))


def test_bytes_behind_the_blob_do_not_spoil_the_next_answer(scripted, scripted_client):
    scripted.script.bodies = {BLOB_PATH: CONTENT + b"more", "/v1/run": msgspec.json.encode(SPEC)}
    content = bytearray(BLOB.num_bytes)
    scripted_client.fetch_blob(BLOB, content)
    assert content == CONTENT
    assert scripted_client.run_spec() == SPEC


def test_nobody_listening_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = LearnerClient(f"http://127.0.0.1:{port}", TOKEN)
    with pytest.raises(LearnerUnavailable, match=f"127.0.0.1:{port}"):
        client.run_spec()


def test_a_failing_learner_is_unavailable(scripted, scripted_client):
    scripted.script.bodies = {"/v1/run": b"{}"}
    scripted.script.status = 503
    with pytest.raises(LearnerUnavailable, match="503"):
        scripted_client.run_spec()


@pytest.mark.parametrize("body", [b"<html>", b'{"schema_version": 1}', b"{}"])
def test_something_else_than_a_learner_is_incompatible(scripted, scripted_client, body):
    scripted.script.bodies = {"/v1/run": body}
    with pytest.raises(LearnerIncompatible):
        scripted_client.run_spec()


def test_a_site_without_the_route_is_incompatible(scripted_client):
    with pytest.raises(LearnerIncompatible, match="404"):
        scripted_client.run_spec()


def test_another_schema_is_incompatible_and_both_numbers_are_said(scripted, scripted_client):
    body = msgspec.json.encode({"schema_version": SCHEMA_VERSION + 1, "anything": []})
    scripted.script.bodies = {"/v1/run": body}
    with pytest.raises(LearnerIncompatible, match=f"schema {SCHEMA_VERSION + 1}.*{SCHEMA_VERSION}"):
        scripted_client.run_spec()


def test_the_token_is_in_the_header_only(scripted, scripted_client, caplog):
    caplog.set_level(logging.DEBUG)
    scripted_client.fetch_blob(BLOB, bytearray(BLOB.num_bytes))
    ((target, headers),) = scripted.script.seen
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in target
    assert TOKEN not in caplog.text
