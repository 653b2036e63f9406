"""A run that trains adapters: what travels, what a resume makes of it, what others can load."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import CONFIG, learner, metrics, worker, write_run
from tests.run_folders import is_clean
from tests.tiny_models import load_plain
from volley.learner.export import export

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

DEADLINE_S = 90.0
LORA = CONFIG.replace('path = "model"', 'path = "model"\nlora_r = 1').replace(
    "steps = 3", "steps = 6"
)
DURABLE = """
[checkpoint]
every_steps = 2
keep_all_steps = true
min_free_bytes = 0
"""


def run_and_die(config: Path, redis_url: str) -> Path:
    """All steps, with one death; the run folder."""
    with learner(config, redis_url, failpoint="after-outcome@4") as (dying, client, folder):
        manifest = client.manifest(have=None, wait_s=30)
        assert manifest is not None
        assert manifest.adapters is not None
        assert manifest.adapters.num_bytes < manifest.anchor.num_bytes / 5
        on_port = ("--set", f"server.port={client.url.rpartition(':')[2]}")
        with worker(folder, "w") as answering:
            assert dying.process.wait(DEADLINE_S) == -signal.SIGKILL, dying.log.read_text()
            with learner(config, redis_url, *on_port) as (living, successor, _):
                after = successor.manifest(have=None, wait_s=30)
                assert after is not None
                assert after.anchor == manifest.anchor
                assert living.process.wait(DEADLINE_S) == 0, living.log.read_text()
            assert answering.process.wait(DEADLINE_S) == 0, answering.log.read_text()
    return folder


def test_adapters_alone_travel_and_are_resumed_audited_and_exported(redis_url, tmp_path):
    from peft import PeftModel

    config = write_run(tmp_path, LORA + DURABLE)
    folder = run_and_die(config, redis_url)
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert len({line["root"] for line in lines}) == 6
    # The worker's sums and the learner's forward beside them are the same policy.
    assert all(line["mismatch_kl"] is None or line["mismatch_kl"] < 1e-6 for line in lines)
    assert "refused" not in (tmp_path / "w.log").read_text()
    assert is_clean(folder)

    export(folder, tmp_path / "whole")
    export(folder, tmp_path / "adapters", adapters_alone=True)
    trained = load_file(folder / "model" / "model.safetensors")
    exported = load_file(tmp_path / "whole" / "model.safetensors")
    start = load_file(tmp_path / "model" / "model.safetensors")
    assert trained.keys() == exported.keys() == start.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in trained.items())
    moved = {name for name, tensor in trained.items() if not torch.equal(start[name], tensor)}
    assert moved == {name for name in trained if name.endswith("proj.weight")}
    model = PeftModel.from_pretrained(load_plain(tmp_path / "model"), tmp_path / "adapters")
    merged = model.merge_and_unload().state_dict()
    for name, tensor in trained.items():
        torch.testing.assert_close(merged[name], tensor)
