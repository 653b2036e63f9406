from pathlib import Path

import pytest

from tests.builders import RUN, make_group, make_task, make_trajectory
from tests.tiny_models import VOCAB, save_tiny_qwen3
from volley.launcher.check_group import look_into_training
from volley.launcher.check_inputs import Inputs
from volley.launcher.check_notes import Notes
from volley.launcher.check_sampling import Delivered
from volley.launcher.findings import Level, bad
from volley.learner.policy import Policy
from volley.learner.settings import Settings
from volley.rollout.rehearsal import Answer
from volley.schemas.codec import encode
from volley.schemas.groups import Failure, FailureReason, Group

TOKEN_IDS = (VOCAB["a"], VOCAB["b"], VOCAB["<eos>"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen3(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(model: Path) -> Settings:
    return Settings.model_validate(
        {
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"train": "train.jsonl"},
            "sampling": {"num_generations": 2, "max_completion_length": 8},
        }
    )


@pytest.fixture
def inputs(settings: Settings) -> Inputs:
    policy = Policy.load(settings.model, "cpu")
    return Inputs(policy, (), None, None, None, [])


def look(group: Group, settings: Settings, inputs: Inputs, notes: Notes, *, failure: str = ""):
    answer = Answer(encode(group))
    if failure:
        failed = Failure(2, RUN, 0, 0, "check", FailureReason.REWARD, failure)
        answer = Answer(encode(failed), unrewarded=encode(group))
    return look_into_training(Delivered(make_task(), answer), settings, inputs, notes)


def group_of(*rewards: float | None) -> Group:
    return make_group(
        trajectories=[make_trajectory([reward], token_ids=TOKEN_IDS) for reward in rewards]
    )


def test_a_group_with_a_signal_is_trained_on(settings, inputs):
    notes = Notes()
    records, metrics = look(group_of(1.0, 0.0), settings, inputs, notes)
    # (1 - 0.5) / (0.7071 + 1e-4), and its negative.
    assert [record.advantage for record in records] == pytest.approx([0.7070, -0.7070], abs=1e-4)
    assert [record.disposition for record in records] == ["trained"] * 2
    assert metrics["num_tokens"] == 6
    assert metrics["grad_norm"] > 0
    found = {finding.subject: finding.level for finding in notes.findings}
    assert found["step"] is Level.OK
    # It was made up what the engine has said, and that does not go unnoticed.
    assert found["engine and learner"] is Level.WARN


def test_without_a_signal_engine_and_learner_are_compared_nevertheless(settings, inputs):
    notes = Notes()
    before = {n: p.detach().clone() for n, p in inputs.policy.parameters().items()}
    records, metrics = look(group_of(0.5, 0.5), settings, inputs, notes)
    assert [record.disposition for record in records] == ["filtered"] * 2
    assert metrics["loss"] is None
    subjects = [finding.subject for finding in notes.findings]
    assert subjects == ["rewards", "completions", "trained", "engine and learner"]
    # One step of a nearly empty loss moves no weight by more than its learning rate.
    for name, parameter in inputs.policy.parameters().items():
        assert (parameter - before[name]).abs().max() <= 2 * settings.optim.learning_rate


def test_a_reward_that_failed_is_said_and_its_completions_are_there_to_be_seen(settings, inputs):
    notes = Notes()
    records, metrics = look(group_of(None, None), settings, inputs, notes, failure="raised\nx")
    assert [finding.found for finding in notes.findings] == ["raised\nx"]
    assert [record.completion for record in records] == ["ab", "ab"]
    assert [record.advantage for record in records] == [None, None]
    assert metrics == {}


def test_no_step_is_taken_where_memory_is_too_small(settings, inputs):
    notes = Notes([bad("memory of cpu", "too small", "take a larger machine")])
    records, metrics = look(group_of(1.0, 0.0), settings, inputs, notes)
    assert [record.disposition for record in records] == [None, None]
    assert metrics == {}
