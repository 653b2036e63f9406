import pytest

from volley.learner.reward_code import read_reward_specs, reward_limits
from volley.learner.settings import RewardSettings
from volley.schemas.run_spec import RewardLimits
from volley.telemetry.stops import Stop
from volley.transport.tensors import hash_bytes


def specs(folder, *functions, weights=None):
    return read_reward_specs(RewardSettings(functions=functions, weights=weights), folder)


def test_a_function_is_held_to_the_bytes_of_its_file(tmp_path):
    code = b"def score(prompts, completions, **columns): return [0.0]\n"
    (tmp_path / "mine.py").write_bytes(code)
    (spec,) = specs(tmp_path, "mine:score", weights=(0.5,))
    assert (spec.name, spec.weight, spec.file_hash) == ("mine:score", 0.5, hash_bytes(code))


def test_a_dotted_module_is_a_path_and_a_name_may_be_imported_or_assigned(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "rewards.py").write_text("from math import sqrt as a\nb = a\n")
    assert len(specs(tmp_path, "pack.rewards:a", "pack.rewards:b")) == 2


def test_a_built_in_function_has_no_file(tmp_path):
    assert specs(tmp_path, "exact_match")[0].file_hash is None


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("exact_mach", "is not built in (exact_match, answer_match, f1, format, maths)"),
        ("absent:score", "put the module beside the config file"),
        ("mine:scor", "mine.py has no 'scor'"),
        ("broken:score", "is not Python"),
    ],
)
def test_a_function_that_cannot_be_found_is_named(tmp_path, function, words):
    (tmp_path / "mine.py").write_text("async def score(): ...\n")
    (tmp_path / "broken.py").write_text("def score(:\n")
    with pytest.raises(Stop, match=r"reward\.functions") as caught:
        specs(tmp_path, function)
    assert words in caught.value.message


@pytest.mark.parametrize(("on_failure", "sent"), [("skip", None), (-1, -1.0), (0.0, 0.0)])
def test_workers_are_told_the_limits_and_what_a_failure_is_worth(on_failure, sent):
    limits = reward_limits(RewardSettings(timeout_s=5, num_processes=3, on_failure=on_failure))
    assert limits == RewardLimits(5.0, 4 * 2**30, 3, sent)
