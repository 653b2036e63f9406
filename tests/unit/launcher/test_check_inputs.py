from pathlib import Path

from volley.launcher.check_inputs import (
    columns_findings,
    data_finding,
    overlap_findings,
    tools_findings,
)
from volley.launcher.findings import Level
from volley.learner.prompts import Prompt, Prompts, Row
from volley.schemas.run_spec import EnvironmentSpec, ToolSpec


def prompts(*token_ids: tuple[int, ...]) -> Prompts:
    return Prompts([Prompt("p", ids, {"answer": "a", "level": 1}) for ids in token_ids], seed=0)


def test_data_is_described_by_its_size_and_columns():
    finding = data_finding("data", Path("t.jsonl"), prompts((1, 2), (3,), (4, 5, 6)), room=56)
    assert finding.found == (
        "t.jsonl, 3 prompts of up to 3 tokens, 56 fit; columns beside prompt: answer, level"
    )


def test_a_column_that_only_some_lines_have_is_named_once():
    full: dict[str, object] = {"answer": "a", "level": 1}
    poor: dict[str, object] = {"level": 1}
    rows = [Row("t:1", "p", full), Row("t:2", "p", poor), Row("t:3", "p", poor)]
    [only] = columns_findings("data", rows)
    assert only.level is Level.WARN
    assert only.found == "t:2: column 'answer' is missing, which other lines have"
    assert columns_findings("data", rows[:1]) == []


def test_held_out_prompts_that_are_trained_on_are_counted():
    [only] = overlap_findings(prompts((1, 2), (3,)), prompts((3,), (4,)))
    assert only.level is Level.WARN
    assert only.found == "1 of 2 prompts are in data.train too"
    assert overlap_findings(prompts((1, 2)), prompts((3,))) == []


def test_tools_of_which_a_prompt_says_nothing_are_named():
    tools = tuple(ToolSpec(f"my_tools:{name}", "hash", {}) for name in ("add", "search"))
    environment = EnvironmentSpec("tools", None, {}, 8, 30.0, tools)
    [only] = tools_findings(environment, "you may search. 1+1?")
    assert only.level is Level.WARN
    assert only.found.startswith("the first prompt says nothing of add:")
    assert tools_findings(environment, "you may search and add. 1+1?") == []
    assert tools_findings(None, "1+1?") == []
