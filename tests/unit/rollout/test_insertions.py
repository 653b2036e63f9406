"""An episode of a chat, as its ids grow, is what the chat template makes of the whole chat."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chats import (
    CHARACTERS,
    IDS,
    SPECIAL_TOKENS,
    TAGS,
    TOOL_FRAME,
    USER_FRAME,
    save_chat_tokenizer,
)
from volley.rollout.calls import CallFailed
from volley.rollout.insertions import checked_answer, inserted_ids
from volley.rollout.tokenizer import Tokenizer
from volley.schemas.run_spec import ChatFrame

FRAMES: dict[str, ChatFrame | str] = {"tool": TOOL_FRAME, "user": USER_FRAME, "system": "because"}
END = IDS["<|im_end|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("chat")
    save_chat_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def plain(folder: Path):
    return save_chat_tokenizer(folder)


def spelt(text: str) -> list[int]:
    return [IDS[character] for character in text]


def test_the_ids_of_a_message_by_hand(tokenizer):
    ids = inserted_ids([{"role": "user", "content": "hi"}], END, FRAMES, tokenizer)
    start = IDS["<|im_start|>"]
    expected = [start, *spelt("user\nhi"), END, *spelt("\n"), start, *spelt("assistant\n")]
    # The model has said <|im_end|> itself.
    assert list(ids) == [*spelt("\n"), *expected]
    behind_a_stop_string = inserted_ids(
        [{"role": "user", "content": "hi"}], IDS["x"], FRAMES, tokenizer
    )
    assert behind_a_stop_string == (END, *ids)


def test_what_comes_from_outside_never_becomes_a_special_token(tokenizer):
    text = "<|im_end|><tool_call></think>"
    expected = (*spelt("<|im_end|>"), IDS["<tool_call>"], IDS["</think>"])
    assert tokenizer.inserted_ids(text) == expected
    assert inserted_ids(text, END, FRAMES, tokenizer) == expected
    assert tokenizer.frame_ids("<|im_end|>") == (END,)


CONTENT = st.lists(
    st.sampled_from([*CHARACTERS, *SPECIAL_TOKENS, *TAGS]), min_size=1, max_size=12
).map("".join)
ANSWER = st.one_of(
    st.lists(st.builds(lambda text: {"role": "tool", "content": text}, CONTENT), min_size=1),
    CONTENT.map(lambda text: [{"role": "user", "content": text}]),
)
SAID = st.text(CHARACTERS, max_size=12)


@settings(deadline=None)
@given(turns=st.lists(st.tuples(SAID, ANSWER), max_size=4), stopped=st.booleans())
def test_the_text_of_an_episode_is_that_of_the_whole_chat(tokenizer, plain, turns, stopped):
    chat = [{"role": "user", "content": "q"}]
    ids = plain.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    num_marks = len(ids) - len(spelt("user\nq\nassistant\n"))
    for said, answer in turns:
        ids += [*spelt(said), *([] if stopped else [END])]
        ids += inserted_ids(answer, ids[-1], FRAMES, tokenizer)
        chat += [{"role": "assistant", "content": said}, *answer]
        num_marks += 4
    written = plain.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert plain.decode(ids) == written
    # And none of the marks was said by anybody.
    assert sum(one in (END, IDS["<|im_start|>"]) for one in ids) == num_marks


@pytest.mark.parametrize(
    "value",
    [
        "",
        [],
        3,
        {"role": "tool", "content": "one message is no list"},
        [{"role": "tool"}],
        [{"role": "tool", "content": 3}],
        [{"role": "tool", "content": "a", "name": "add"}],
        "\ud800",
        [{"role": "tool", "content": "\ud800"}],
    ],
)
def test_an_answer_is_text_or_messages(value):
    with pytest.raises(CallFailed, match="the environment answered"):
        checked_answer(value)


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (("tool", "user"), "answered as tool and as user at once"),
        (("system",), "answered a 'system' message: because"),
        (("critic",), "messages of another role: tool, user, system"),
        (("once", "once"), "takes one 'once' message at a time"),
    ],
)
def test_messages_that_the_template_cannot_take_are_refused(tokenizer, roles, words):
    frames = FRAMES | {"once": ChatFrame("<|im_end|>", None, "\n")}
    with pytest.raises(CallFailed, match=words):
        inserted_ids([{"role": role, "content": "a"} for role in roles], END, frames, tokenizer)
