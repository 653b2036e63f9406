from pathlib import Path

import pytest

from tests.chats import CHATML, FORGETFUL, IDS, TOOL_FRAME, USER_FRAME, save_chat_model
from volley.learner.chat_frames import framed, read_frame
from volley.learner.policy import Policy
from volley.learner.prompts import Row
from volley.learner.settings import ModelSettings
from volley.schemas.run_spec import ChatFrame, EnvironmentSpec, ToolSpec
from volley.telemetry.stops import Stop

STOPS = (IDS["<|im_end|>"],)
ADD = ToolSpec("my_tools:add", "00", {"type": "function", "function": {"name": "add"}})
TOOLS = EnvironmentSpec("tools", None, {}, 4, 10.0, (ADD,))
OWN = EnvironmentSpec("mine:Game", "00", {}, 4, 10.0)
CHAT = Row("train.jsonl:1", [{"role": "user", "content": "1 + 2?"}], {})


@pytest.fixture
def load(tmp_path: Path):
    def load_with(template: str, **kwargs: object) -> Policy:
        folder = save_chat_model(tmp_path / "model", template)
        settings = ModelSettings(path=str(folder), dtype="float32", chat_template_kwargs=kwargs)
        return Policy.load(settings, "cpu", [ADD.schema])

    return load_with


def test_a_frame_is_what_stands_between_what_the_two_say(load):
    policy = load(CHATML)
    assert read_frame("tool", policy) == TOOL_FRAME
    assert read_frame("user", policy) == USER_FRAME


def test_a_template_that_strips_thoughts_may_answer_as_a_tool_and_not_as_the_user(load):
    spec = framed(OWN, load(FORGETFUL), STOPS, [CHAT])
    assert spec is not None
    assert spec.frames["tool"] == TOOL_FRAME
    reason = spec.frames["user"]
    assert isinstance(reason, str)
    assert reason.startswith("model.path: its chat template cannot take 'user' messages")
    assert 'does not preserve prefixes: "<think>\\nSix sevens.\\n</think>' in reason
    assert "becomes \"I'll have a look.<|im_end|>" in reason
    assert "model.chat_template" in reason


SIMPLE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "kwargs", "words"),
    [
        (CHATML, {"enable_thinking": False}, "\"<think>\\n\\n</think>\\n\\nI'll have"),
        (CHATML.replace("+ m.content + '\\n</", "+ (m.content | tojson) + '\\n</"), {}, "rewrites"),
        (SIMPLE.replace("<|im_end|>", "\n"), {}, "sampling.stop_token_ids takes more"),
        (f"{{{{ messages | length }}}}{SIMPLE}", {}, "does not preserve prefixes: '1user:"),
        (f"{{% if messages | length > 3 %}}!{{% endif %}}{SIMPLE}", {}, "preserve prefixes"),
        ("{{ raise_exception('only the user speaks') }}", {}, "only the user speaks"),
    ],
)
def test_a_run_with_tools_stops_for_a_template_that_cannot_take_them(load, template, kwargs, words):
    with pytest.raises(Stop, match=r"environment\.name: tools needs another template") as caught:
        framed(TOOLS, load(template, **kwargs), STOPS, [CHAT])
    assert words in caught.value.message
    assert "model.path" in caught.value.message


def test_a_template_that_takes_one_message_at_a_time_has_no_between(load):
    alternating = (
        "{% for m in messages %}{% if loop.index0 % 2 == (m.role == 'user') | int %}"
        "{{ raise_exception('user and assistant must take turns') }}{% endif %}"
        "{{ m.content }}<|im_end|>{% endfor %}"
    )
    assert read_frame("user", load(alternating)) == ChatFrame("<|im_end|>", None, "<|im_end|>")


def test_tools_need_prompts_of_messages(load):
    with pytest.raises(Stop, match=r"train\.jsonl:2: 'prompt' is text") as caught:
        framed(TOOLS, load(CHATML), STOPS, [CHAT, Row("train.jsonl:2", "1 + 2?", {})])
    assert "{'role', 'content'}" in caught.value.message
    assert framed(None, load(CHATML), STOPS, [CHAT]) is None
