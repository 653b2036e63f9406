"""`volley trajectories` on the folder of a run: as a person and as a program sees it."""

import json

import msgspec
import pytest
from rich.text import Text
from typer.testing import CliRunner

from tests.solo_learner import SoloLearner, write_config
from tests.three_steps import run_of_three_steps, two_turns
from tests.tiny_models import save_tiny_qwen3
from volley.launcher.__main__ import app
from volley.launcher.trajectories import describe_trajectory, tint
from volley.learner.step_log import Place
from volley.learner.trajectories import Choice, read_trajectories

EVIL = "a\x1b[2Jb"
"""Would clear the screen."""


@pytest.fixture(scope="module")
def solo(tmp_path_factory):
    with run_of_three_steps(tmp_path_factory.mktemp("solo")) as learner:
        yield learner


@pytest.fixture(scope="module")
def folder(solo):
    return solo.folder.path


def volley(*arguments):
    return CliRunner().invoke(app, ["trajectories", *map(str, arguments)])


def lines(*arguments):
    result = volley(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def chosen(*arguments):
    """Step and number of every trajectory."""
    return [(line["step"], line["number"]) for line in lines(*arguments)]


def test_the_last_groups_are_shown_unless_others_are_asked_for(folder):
    assert chosen(folder) == [(3, 4), (3, 4), (3, 5), (3, 5)]
    assert chosen(folder, "--step", 1) == [(1, 0), (1, 0), (1, 1), (1, 1)]
    assert chosen(folder, "--number", 3) == [(2, 3)] * 2
    assert chosen(folder, "--step", 2, "--number", 2) == [(2, 2)] * 2
    assert chosen(folder, "--last", 3) == [(2, 3)] * 2 + [(3, 4)] * 2 + [(3, 5)] * 2
    assert chosen(folder, "--step", 2, "--last", 1) == [(2, 3)] * 2


def test_advantages_are_those_that_the_step_was_taken_with(folder):
    trained = lines(folder, "--number", 2)
    # Rewards 1 and 0: a deviation of a half over their standard deviation.
    scaled = 0.5 / (0.5**0.5 + 1e-4)
    assert [line["advantage"] for line in trained] == pytest.approx([scaled, -scaled])
    assert {line["disposition"] for line in trained} == {"trained"}
    filtered = lines(folder, "--number", 3)
    assert [line["advantage"] for line in filtered] == [None, None]
    assert {line["disposition"] for line in filtered} == {"filtered"}


def test_what_the_reference_takes_off_a_reward_is_not_guessed(tmp_path):
    config = write_config(tmp_path, save_tiny_qwen3(tmp_path / "model"))
    kl = ("loss.beta=0.1", 'loss.kl_in="reward"', 'loss.kl_target="reference"')
    learner = SoloLearner(config, *kl, 'loss.kl_estimator="k1"')
    learner.take(0, 1)
    learner.die()
    assert {line["advantage"] for line in lines(learner.folder.path)} == {None}


def test_without_colours_every_text_is_marked(folder):
    result = volley(folder, "--number", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "",
        "step 2, number 2, trained",
        "[prompt] g o",
        "",
        "1 of 2: reward 1 (exact_match 1), advantage 0.707, stop, 2 turns, 6 tokens, version 1.0, "
        "searches 1",
        "[generated] a s k",
        "[inserted] =",
        "[generated] b <eos>",
        "",
        "2 of 2: reward 0 (exact_match 0), advantage -0.707, stop, 1 turn, 2 tokens, version 1.0",
        "[generated] n o",
    ]


def test_with_colours_a_text_stands_as_it_was(folder):
    [[record, _]] = read_trajectories(folder, Choice(number=2))
    _, text = describe_trajectory(record, 2, has_marks=False)
    assert text == Text.assemble(("a s k", "green"), ("=", "yellow"), ("b <eos>", "green"))


def test_what_could_move_the_cursor_is_shown_as_what_it_is(folder):
    [[record, _]] = read_trajectories(folder, Choice(number=2))
    passages = [msgspec.structs.replace(one, text=EVIL) for one in record.passages]
    record = msgspec.structs.replace(record, passages=passages)
    for has_marks in (True, False):
        _, text = describe_trajectory(record, 2, has_marks=has_marks)
        assert "\x1b" not in text.plain
        assert "a\\x1b[2Jb" in text.plain


def test_generated_tokens_are_listed_with_what_the_engine_said(folder):
    result = volley(folder, "--number", 2, "--logprobs")
    rows = [line.split() for line in result.stdout.splitlines() if line.endswith("1.0      ")]
    assert rows[:5] == [
        ["2", "'a'", "-0.5000", "0.607", "1.0"],
        ["3", "'s'", "-0.2500", "0.779", "1.0"],
        ["4", "'k'", "-2.0000", "0.135", "1.0"],
        ["6", "'b'", "-0.1250", "0.882", "1.0"],
        ["7", "'<eos>'", "-1.0000", "0.368", "1.0"],
    ]


def test_the_less_probable_the_redder():
    colours = [str(tint(probability)) for probability in (0.0, 0.5, 1.0, 1.0001)]
    assert colours == ["#c80000", "#c8c800", "#00c800", "#00c800"]


def test_a_group_that_is_in_training_has_no_disposition_yet(solo, folder):
    solo.log(two_turns(6, solo.folder.run, 0.0))
    try:
        assert {line["disposition"] for line in lines(folder, "--step", 4)} == {None}
        assert "step 4, number 6, in training" in volley(folder).stdout
    finally:
        solo.history.log.path(Place(4, 0)).unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--step", 12), "step 12 is not kept: 1 to 3 are"),
        (("--number", 12), "number 12 is not in any step that is kept: 1 to 3 are"),
        (("--step", 2, "--number", 5), "number 5 is not in step 2"),
    ],
)
def test_what_is_not_there_is_said(folder, options, message):
    result = volley(folder, *options)
    assert result.exit_code == 2
    assert message in result.output


def test_a_folder_without_a_run_or_without_a_step_is_said(tmp_path):
    assert "holds no run" in volley(tmp_path).output
    (tmp_path / "run.json").write_text("{}")
    result = volley(tmp_path)
    assert (result.exit_code, "no step is logged yet" in result.output) == (2, True)


def test_a_damaged_step_is_named(tmp_path):
    learner = SoloLearner(write_config(tmp_path, save_tiny_qwen3(tmp_path / "model")))
    learner.take(0, 1)
    learner.die()
    path = learner.history.log.path(Place(1, 0))
    path.write_bytes(path.read_bytes()[:-1])
    result = volley(learner.folder.path)
    assert result.exit_code == 3
    assert "step-00000001-0.vly: cut or altered" in result.output


def test_a_model_that_has_gone_is_named(tmp_path):
    model = save_tiny_qwen3(tmp_path / "model")
    learner = SoloLearner(write_config(tmp_path, model))
    learner.take(0, 1)
    learner.die()
    model.rename(tmp_path / "elsewhere")
    result = volley(learner.folder.path)
    assert result.exit_code == 2
    assert "model.path: " in result.output
    # The one that the run leaves will do.
    (tmp_path / "elsewhere").rename(learner.folder.path / "model")
    assert volley(learner.folder.path).exit_code == 0
