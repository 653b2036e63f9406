"""Two turns about `cat`, worked by hand; each token is a letter, and 1 is the end."""

import json

import msgspec
import pytest

from tests.builders import make_group, make_trajectory
from volley.learner.trajectory_record import Passage, Step, final_answer, records_of
from volley.schemas.groups import StopReason, Version
from volley.schemas.past import Source


def text_of(token_ids):
    return "".join("$" if token == 1 else chr(token) for token in token_ids)


def ids(text):
    return [1 if letter == "$" else ord(letter) for letter in text]


STEP = Step(
    run="cats",
    epoch=2,
    step=7,
    attempt=1,
    functions=("answer_match", "format"),
    weights=(1.0, 0.5),
    answer_tag="answer",
    text_of=text_of,
)
OLD, NEW = Version(1, 5), Version(2, 6)
TWO_TURNS = msgspec.structs.replace(
    make_trajectory(
        [1.0, None],
        token_ids=ids("ab[cd]e$"),
        inserted=[(2, 6)],
        sampler_logprobs=[-0.5, -0.25, 0, 0, 0, 0, -1.5, -2.0],
        versions=[OLD] * 6 + [NEW] * 2,
        text="ab[cd]e",
    ),
    metrics={"searches": 1.0},
)
SILENT = make_trajectory(
    [None, None], token_ids=ids("xy"), stop_reason=StopReason.FAILED, text="xy"
)


@pytest.fixture
def records():
    group = make_group(number=3, prompt_ids=ids("p="), trajectories=[TWO_TURNS, SILENT])
    return [*records_of(group, STEP, "trained", [0.75, None])]


def test_a_record_says_where_the_trajectory_stands(records):
    first, second = records
    assert (first.run, first.epoch, first.step, first.attempt, first.number) == ("cats", 2, 7, 1, 3)
    assert (first.index, second.index) == (0, 1)
    assert (first.worker, first.disposition) == ("worker", "trained")


def test_generated_positions_point_into_the_full_ids(records):
    first, second = records
    assert first.prompt_ids == (ord("p"), ord("="))
    assert text_of(first.input_ids) == "p=ab[cd]e$"
    assert first.generated_positions == (2, 3, 8, 9)
    assert text_of(first.input_ids[at] for at in first.generated_positions) == "abe$"
    assert second.generated_positions == (2, 3)


def test_texts_are_told_apart_by_who_wrote_them(records):
    first, _ = records
    assert first.query == "p="
    assert first.generated_text == "abe$"
    assert first.completion == "ab[cd]e"
    assert first.passages == (
        Passage(Source.PROMPT, 0, 2, "p="),
        Passage(Source.GENERATED, 2, 4, "ab"),
        Passage(Source.INSERTED, 4, 8, "[cd]"),
        Passage(Source.GENERATED, 8, 10, "e$"),
    )


def test_generated_tokens_alone_have_a_logprob_and_a_version(records):
    first, _ = records
    assert [one.position for one in first.tokens] == [*range(10)]
    assert tuple(one.id for one in first.tokens) == first.input_ids
    assert "".join(one.text for one in first.tokens) == "p=ab[cd]e$"
    said = [one for one in first.tokens if one.source is Source.GENERATED]
    assert [one.logprob for one in said] == [-0.5, -0.25, -1.5, -2.0]
    assert [one.version for one in said] == ["1.5", "1.5", "2.6", "2.6"]
    others = [one for one in first.tokens if one not in said]
    assert {(one.logprob, one.version) for one in others} == {(None, None)}


def test_rewards_have_the_names_of_their_functions(records):
    first, second = records
    assert first.rewards == {"answer_match": 1.0, "format": None}
    assert (first.reward, first.advantage) == (1.0, 0.75)
    assert (second.reward, second.advantage, second.stop_reason) == (None, None, "failed")


def test_turns_and_what_the_environment_counted_are_told(records):
    first, second = records
    assert (first.turns, first.metrics) == (2, {"searches": 1.0})
    assert (second.turns, second.metrics) == (1, {})


def test_an_insertion_may_be_the_end_or_touch_the_next(records):
    trajectory = make_trajectory([0.0, 0.0], token_ids=ids("abcd"), inserted=[(1, 2), (2, 4)])
    group = make_group(prompt_ids=ids("p"), trajectories=[trajectory])
    (record,) = records_of(group, STEP, None, [0.0])
    assert [(one.source, one.text) for one in record.passages] == [
        ("prompt", "p"),
        ("generated", "a"),
        ("inserted", "b"),
        ("inserted", "cd"),
    ]
    assert record.generated_positions == (1,)


def test_a_line_of_json_has_all_of_it(records):
    line = json.loads(msgspec.json.encode(records[0]))
    assert line.keys() == set(records[0].__struct_fields__)
    assert line["tokens"][4] == {
        "id": ord("["),
        "text": "[",
        "position": 4,
        "source": "inserted",
        "logprob": None,
        "version": None,
    }


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>a</answer> or <answer>b</answer>.", "b"),
        ("<answer>a</answer><answer>b", "a"),
        ("no tag", "no tag"),
    ],
)
def test_the_final_answer_stands_in_the_last_tag(completion, answer):
    assert final_answer(completion, "answer") == answer
