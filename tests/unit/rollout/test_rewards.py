"""Reward functions as users write them, well and badly."""

import asyncio
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from tests.loaded_rewards import load_rewards
from volley.rollout.builtin_rewards import exact_match
from volley.rollout.rewards import Reward, RewardFailed, RewardFunction
from volley.schemas.run_spec import RewardSpec
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes

COMPLETIONS = ("ab", "ba", "")


def score(function: RewardFunction, **columns: object) -> tuple[float | None, ...]:
    return Reward("mine:function", function).score("sort ba=", COMPLETIONS, columns)


def test_prompts_and_columns_come_once_per_completion():
    def everything(prompts, completions, **columns):
        assert prompts == ["sort ba="] * 3
        assert completions == list(COMPLETIONS)
        assert columns == {"answer": ["ab"] * 3, "level": [7] * 3}
        return [1, 2, 3]

    assert score(everything, answer="ab", level=7) == (1.0, 2.0, 3.0)


def test_a_function_gets_only_the_columns_that_it_names():
    def length(completions, scale):
        return [len(text) * scale[0] for text in completions]

    assert score(length, scale=0.5, answer="ab") == (1.0, 1.0, 0.0)


def test_a_default_stands_in_for_a_column_that_is_not_there():
    def constant(completions, scale=3):
        return [scale] * len(completions)

    assert score(constant) == (3.0, 3.0, 3.0)


def test_an_async_function_is_awaited():
    async def later(completions):
        await asyncio.sleep(0)
        return [0.5 for _ in completions]

    assert score(later) == (0.5, 0.5, 0.5)


def test_none_means_that_it_does_not_apply_and_any_real_number_is_a_reward():
    def mixed(completions):
        return [None, True, Fraction(1, 4)]

    assert score(mixed) == (None, 1.0, 0.25)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([1.0, 2.0], "2 values for 3 completions"),
        ([1.0, 2.0, 3.0, 4.0], "4 values for 3 completions"),
        ([1.0, "2", 3.0], "'2', not a number"),
        ([1.0, float("nan"), 3.0], "nan, not a finite number"),
        ([1.0, float("inf"), 3.0], "inf, not a finite number"),
        ([1.0, 10**400, 3.0], "inf, not a finite number"),
        (None, "NoneType, not a list"),
        (1.0, "float, not a list"),
    ],
)
def test_what_is_not_a_list_of_rewards_is_a_failure(answer, problem):
    with pytest.raises(RewardFailed, match=f"(?s)mine:function.*{problem}"):
        score(lambda completions: answer)


def test_an_exception_is_a_failure_with_the_users_traceback_alone():
    def broken(completions):
        return [completions[99]]

    with pytest.raises(RewardFailed) as failure:
        score(broken)
    text = str(failure.value)
    assert "return [completions[99]]" in text
    assert "IndexError" in text
    assert "rewards.py" not in text.replace("test_rewards.py", "")


def test_an_exit_in_user_code_is_a_failure_too():
    with pytest.raises(RewardFailed, match="SystemExit"):
        score(lambda completions: sys.exit(1))


def test_a_missing_column_is_named():
    with pytest.raises(RewardFailed, match=r"needs the column 'answer', the data has .*solution"):
        score(exact_match, solution="ab")


def test_a_missing_column_is_named_by_a_function_that_takes_all_others():
    def right(completions, answer, **columns):
        return [1.0] * 3

    with pytest.raises(RewardFailed, match="needs the column 'answer'"):
        score(right, solution="ab")


@pytest.fixture
def code_folder(tmp_path, monkeypatch):
    """A module beside another that it imports; loading may extend sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "pack").mkdir()
    (tmp_path / "neighbour_of_mine.py").write_text("SCALE = 2\n")
    (tmp_path / "pack" / "mine.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses, neighbour_of_mine\n"
        "@dataclasses.dataclass\n"
        "class Scale:\n"
        "    by: int = neighbour_of_mine.SCALE\n"
        "def scaled(completions): return [len(text) * Scale().by for text in completions]\n"
        "CONSTANT = 3\n"
    )
    return tmp_path


def spec_of(name: str, file: Path) -> RewardSpec:
    return RewardSpec(name, 1.0, hash_bytes(file.read_bytes()))


def test_user_code_is_loaded_by_name_from_its_folder(code_folder):
    file = code_folder / "pack" / "mine.py"
    specs = [RewardSpec("exact_match", 1.0, None), spec_of("pack.mine:scaled", file)]
    rewards = load_rewards(specs, code_folder)
    assert [reward.name for reward in rewards] == ["exact_match", "pack.mine:scaled"]
    assert rewards[1].score("p", COMPLETIONS, {"answer": "ab"}) == (4.0, 4.0, 0.0)


def test_code_with_another_hash_is_refused_and_never_run(code_folder):
    file = code_folder / "pack" / "mine.py"
    spec = spec_of("pack.mine:scaled", file)
    file.write_text("raise AssertionError('was run')\n")
    with pytest.raises(Stop, match=r"pack\.mine:scaled.*mine\.py.*--code") as stop:
        load_rewards([spec], code_folder)
    assert stop.value.code is ExitCode.CONFIG


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("pack.mine:missing", "no such function"),
        ("pack.mine:CONSTANT", "no such function"),
        ("pack.other:scaled", r"other\.py.*--code"),
        ("unknown", "not built into"),
    ],
)
def test_a_function_that_is_not_there_stops_the_worker(code_folder, name, problem):
    spec = spec_of(name, code_folder / "pack" / "mine.py")
    with pytest.raises(Stop, match=problem):
        load_rewards([spec], code_folder)


def test_code_that_cannot_be_imported_stops_with_its_traceback(code_folder):
    file = code_folder / "broken.py"
    file.write_text("import no_such_module_anywhere\n")
    with pytest.raises(Stop, match=r"(?s)broken\.py.*no_such_module_anywhere"):
        load_rewards([spec_of("broken:f", file)], code_folder)
