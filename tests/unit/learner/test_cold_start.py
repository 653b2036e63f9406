"""A cold start in its folder: begun, stopped, gone on with, finished, and refused."""

import gc
import json
import threading
from contextlib import closing
from pathlib import Path

import pytest
from safetensors.torch import load_file

from volley.learner.cold_start import start_cold
from volley.learner.cold_start_folder import ColdStartFolder, ColdStartLine
from volley.learner.masters import Masters
from volley.learner.settings import Settings, load_settings
from volley.telemetry.stops import ExitCode, Stop

NUM_STEPS = 9
CONFIG = """
[run]
seed = 3
[model]
path = "{model}"
dtype = "{dtype}"
[data]
train = "train.jsonl"
[cold_start]
data = "demonstrations.jsonl"
steps = 9
batch_size = 4
learning_rate = 1e-2
warmup_steps = 2
save_steps = 3
[devices]
learner = "cpu"
"""
WORDS = ("ba", "cab", "dacb", "fed", "hg", "lkj")


@pytest.fixture
def config(qwen3_folder: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path, qwen3_folder)


def write_config(folder: Path, model: Path, dtype: str = "float32") -> Path:
    rows = [{"prompt": f"sort {word}=", "completion": "".join(sorted(word))} for word in WORDS]
    (folder / "demonstrations.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = folder / "config.toml"
    config.write_text(CONFIG.format(model=model, dtype=dtype))
    return config


def settings_of(config: Path, *overrides: str) -> Settings:
    return load_settings(config, overrides, environment={})


def go(settings: Settings, out: Path, until: int = NUM_STEPS) -> bool:
    """A start that is told to stop after the step `until`."""
    stopping = threading.Event()

    def tell(line: ColdStartLine, num_steps: int) -> None:
        assert num_steps == NUM_STEPS
        if line.step == until < num_steps:
            stopping.set()

    return start_cold(settings, out, stopping, tell)


class Killed(Exception):
    """Leaves as abruptly as a process can inside a test."""


def go_and_die(settings: Settings, out: Path, at: int) -> None:
    def tell(line: ColdStartLine, num_steps: int) -> None:
        if line.step == at:
            raise Killed

    with pytest.raises(Killed):
        start_cold(settings, out, threading.Event(), tell)


def told(settings: Settings, out: Path) -> list[int]:
    steps: list[int] = []
    start_cold(settings, out, threading.Event(), lambda line, num_steps: steps.append(line.step))
    return steps


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stopped_and_killed_on_its_way_it_ends_with_the_same_bits(
    qwen3_folder: Path, tmp_path: Path, dtype: str
):
    settings = settings_of(write_config(tmp_path, qwen3_folder, dtype))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert go(settings, whole)
    assert not go(settings, broken, until=2)
    go_and_die(settings, broken, at=5)
    assert told(settings, broken) == [4, 5, 6, 7, 8, 9]
    assert weights(broken) == weights(whole)
    assert lines(broken) == lines(whole)
    assert [line["step"] for line in lines(whole)] == [*range(1, NUM_STEPS + 1)]
    assert lines(whole)[-1]["loss"] < lines(whole)[0]["loss"] / 2
    assert not (broken / "checkpoints").exists()


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(config: Path, tmp_path: Path):
    out = tmp_path / "out"
    go_and_die(settings_of(config), out, at=7)
    newest = max((out / "checkpoints").iterdir())
    assert newest.name.startswith("step-00000006")
    with (newest / "state.safetensors").open("r+b") as file:
        file.write(b"damaged!")
    assert told(settings_of(config), out) == [4, 5, 6, 7, 8, 9]


def test_the_memory_is_free_for_what_comes_next(config: Path, tmp_path: Path):
    def num_masters() -> int:
        return sum(type(one) is Masters for one in gc.get_objects())

    before = num_masters()
    gc.disable()
    try:
        go(settings_of(config), tmp_path / "out")
        assert num_masters() <= before
    finally:
        gc.enable()


def test_what_is_done_is_not_done_again(config: Path, tmp_path: Path):
    go(settings_of(config), tmp_path / "out")
    # Neither the data nor the model it began with are needed any more.
    (tmp_path / "demonstrations.jsonl").unlink()
    assert told(settings_of(config, "model.path=./gone"), tmp_path / "out") == []


def test_the_passes_over_the_data_say_how_many_steps_there_are(config: Path, tmp_path: Path):
    text = config.read_text()
    config.write_text(text.replace("steps = 9\n", "num_train_epochs = 2.5\n", 1))
    # 15 demonstrations, 4 a step.
    assert told(settings_of(config), tmp_path / "out") == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cold_start.learning_rate=1e-3", "cold_start.learning_rate is 0.001"),
        ("cold_start.steps=12", "began with 9"),
        ("run.seed=4", "run.seed is 4"),
        ("model.dtype=bfloat16", "model.dtype is bfloat16"),
    ],
)
def test_other_settings_than_it_began_with_are_refused(
    config: Path, tmp_path: Path, override: str, words: str
):
    go(settings_of(config), tmp_path / "out", until=1)
    with pytest.raises(Stop) as caught:
        go(settings_of(config, override), tmp_path / "out")
    assert caught.value.code is ExitCode.CONFIG
    assert words in caught.value.message
    assert "begin another: --fresh for a run, another OUT for volley sft" in caught.value.message


def test_other_data_than_it_began_with_is_refused(config: Path, tmp_path: Path):
    go(settings_of(config), tmp_path / "out", until=1)
    data = tmp_path / "demonstrations.jsonl"
    data.write_text(data.read_text() + data.read_text())
    with pytest.raises(Stop, match=r"the hash of cold_start\.data is"):
        go(settings_of(config), tmp_path / "out")


def test_how_often_it_is_saved_may_change(config: Path, tmp_path: Path):
    go(settings_of(config), tmp_path / "out", until=1)
    assert go(settings_of(config, "cold_start.save_steps=2"), tmp_path / "out")


def test_a_folder_that_holds_something_else_is_left_alone(config: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(Stop, match="is not empty and holds no cold start"):
        go(settings_of(config), out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_two_do_not_work_on_one_folder(config: Path, tmp_path: Path):
    with closing(ColdStartFolder(tmp_path / "out")), pytest.raises(Stop) as caught:
        go(settings_of(config), tmp_path / "out")
    assert caught.value.code is ExitCode.ANOTHER_LEARNER


def test_weights_that_are_spoilt_are_not_saved(config: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(Stop, match=r"lower cold_start\.learning_rate") as caught:
        go(settings_of(config, "cold_start.learning_rate=1e30", "cold_start.save_steps=1"), out)
    assert caught.value.code is ExitCode.DIVERGED
    for state in out.glob("checkpoints/*/state.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(state).values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[cold_start]\n", "[cold]\n"), "cold: no such key: there is model"),
        (('data = "demonstrations.jsonl"\n', ""), "cold_start.data: is needed"),
        (("save_steps = 3", "num_train_epochs = 2"), "steps and num_train_epochs both say"),
        (("save_steps", "save_step"), "cold_start.save_step: no such key, did you mean save_steps"),
    ],
)
def test_a_section_that_is_wrong_is_named(config: Path, change: tuple[str, str], words: str):
    config.write_text(config.read_text().replace(*change))
    with pytest.raises(Stop) as caught:
        settings_of(config)
    assert words in caught.value.message


def test_a_config_without_the_section_has_no_cold_start(config: Path, tmp_path: Path):
    text = config.read_text()
    config.write_text(text[: text.index("[cold_start]")])
    with pytest.raises(Stop, match=r"has no \[cold_start\]"):
        go(settings_of(config), tmp_path / "out")
