import json
import shutil
from pathlib import Path

import pytest

from tests.tiny_models import CONTEXT_LENGTH, VOCAB
from volley.learner.batching import TrainSequence
from volley.learner.demonstrations import read_demonstrations
from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop

ROW = {"prompt": "sort cab=", "completion": "abc"}
TEXTS = {index: text for text, index in VOCAB.items()}

# The role, `>`, the content, and the end of a turn with a `=` behind it.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}>{{ m.content }}<eos>={% endfor %}"
    "{% if add_generation_prompt %}assistant>{% endif %}"
)


@pytest.fixture
def policy(qwen3_folder: Path) -> Policy:
    return load(qwen3_folder)


def load(folder: Path) -> Policy:
    return Policy.load(ModelSettings(path=str(folder), dtype="float32"), "cpu")


def load_with_template(qwen3_folder: Path, folder: Path, template: str) -> Policy:
    shutil.copytree(qwen3_folder, folder)
    (folder / "chat_template.jinja").write_text(template)
    return load(folder)


def write_rows(folder: Path, *rows: object) -> Path:
    data = folder / "demonstrations.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def read_one(folder: Path, policy: Policy, row: object) -> TrainSequence:
    [demonstration] = read_demonstrations(write_rows(folder, row), policy)
    return demonstration


def text_of(token_ids: tuple[int, ...]) -> str:
    return "".join(TEXTS[one] for one in token_ids)


def marked(demonstration: TrainSequence) -> str:
    """The completion, what is not trained in brackets."""
    text = "".join(
        TEXTS[one] if trained else f"[{TEXTS[one]}]"
        for one, trained in zip(demonstration.completion_ids, demonstration.trained, strict=True)
    )
    return text.replace("][", "")


def chat(*contents: str, first: str = "user") -> dict[str, object]:
    """Messages by turns of the user and the assistant."""
    roles = {"user": "assistant", "assistant": "user"}
    messages, role = [], first
    for content in contents:
        messages.append({"role": role, "content": content})
        role = roles[role]
    return {"messages": messages}


def test_only_the_completion_and_its_end_are_trained(policy: Policy, tmp_path: Path):
    demonstration = read_one(tmp_path, policy, ROW)
    assert text_of(demonstration.prompt_ids) == "sort cab="
    assert marked(demonstration) == "abc<eos>"


def test_what_is_inserted_into_a_completion_is_not_trained(policy: Policy, tmp_path: Path):
    pieces = [{"text": "a"}, {"inserted": "bc"}, {"text": "d"}, {"inserted": "e"}, {"text": "f"}]
    demonstration = read_one(tmp_path, policy, {"prompt": "x", "completion": pieces})
    assert marked(demonstration) == "a[bc]d[e]f<eos>"


def test_of_a_chat_only_what_the_assistant_says_is_trained_up_to_its_end(
    qwen3_folder: Path, tmp_path: Path
):
    policy = load_with_template(qwen3_folder, tmp_path / "chat", TEMPLATE)
    demonstration = read_one(tmp_path, policy, chat("a", "bc", "d", "e"))
    assert text_of(demonstration.prompt_ids) == "user>a<eos>=assistant>"
    assert marked(demonstration) == "bc<eos>[=user>d<eos>=assistant>]e<eos>"


def test_what_a_tool_answers_in_a_chat_is_not_trained(qwen3_folder: Path, tmp_path: Path):
    policy = load_with_template(qwen3_folder, tmp_path / "chat", TEMPLATE)
    roles = ("system", "user", "assistant", "tool", "assistant")
    messages = [{"role": role, "content": text} for role, text in zip(roles, "vwxyz", strict=True)]
    demonstration = read_one(tmp_path, policy, {"messages": messages})
    assert text_of(demonstration.prompt_ids) == "system>v<eos>=user>w<eos>=assistant>"
    assert marked(demonstration) == "x<eos>[=tool>y<eos>=assistant>]z<eos>"


def test_a_prompt_of_messages_has_the_tokens_that_grpo_gives_it(qwen3_folder: Path, tmp_path: Path):
    policy = load_with_template(qwen3_folder, tmp_path / "chat", TEMPLATE)
    prompt = [{"role": "system", "content": "x"}, {"role": "user", "content": "a"}]
    demonstration = read_one(tmp_path, policy, {"prompt": prompt, "completion": "b"})
    assert [list(demonstration.prompt_ids)] == policy.tokenise([prompt])
    assert marked(demonstration) == "b<eos>"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            # What the assistant has said is left out once the user speaks again.
            "{% for m in messages %}{{ m.role }}>"
            "{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}<eos>{% endfor %}"
            "{% if add_generation_prompt %}assistant>{% endif %}",
            "does not preserve prefixes: up to messages[3], what it wrote before as "
            "'bc<eos>' becomes '<eos>user>d<eos>assistant>'",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "none of the model's end tokens"),
        ("{{ raise_exception('only the user speaks') }}", "only the user speaks"),
        ("{% for %}", "the chat template of model.path refuses"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused_with_the_reason(
    qwen3_folder: Path, tmp_path: Path, template: str, words: str
):
    policy = load_with_template(qwen3_folder, tmp_path / "chat", template)
    with pytest.raises(Stop) as caught:
        read_one(tmp_path, policy, chat("a", "bc", "d", "e"))
    assert f"{tmp_path / 'demonstrations.jsonl'}:1: " in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a"}, "column 'completion' is missing (columns here: prompt)"),
        ({"completion": "a"}, "column 'prompt' is missing"),
        ({"prompt": 3, "completion": "a"}, "'prompt' must be text or a list"),
        ({"prompt": "a", "completion": 3}, "'completion' must be text, or a list"),
        ({"prompt": "a", "completion": [{"insert": "b"}]}, "'completion' must be text, or a list"),
        ({"prompt": "a", "completion": [{"inserted": "b"}]}, "must be a 'text'"),
        ({"prompt": "a", "completion": []}, "must be a 'text'"),
        ({"messages": [{"role": "user"}]}, "'messages' must be a list"),
        (chat("a"), "at least one 'assistant' turn"),
        (chat("a", first="assistant"), "must begin with another role"),
        (chat("a", "b"), "no chat template"),
        ({"prompt": "", "completion": "a"}, "the prompt has no tokens"),
        ({"prompt": "a" * CONTEXT_LENGTH, "completion": "a"}, "the model's context has 64"),
        ([1], "not an object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(policy: Policy, tmp_path: Path, row, words):
    data = write_rows(tmp_path, ROW, row)
    with pytest.raises(Stop) as caught:
        read_demonstrations(data, policy)
    assert caught.value.code is ExitCode.CONFIG
    assert caught.value.message.startswith(f"{data}:2: ")
    assert words in caught.value.message


def test_a_line_that_is_not_json_and_a_file_that_is_not_there(policy: Policy, tmp_path: Path):
    data = tmp_path / "broken.jsonl"
    with pytest.raises(Stop, match="cannot read"):
        read_demonstrations(data, policy)
    data.write_text("\n{\n")
    with pytest.raises(Stop, match=r"broken\.jsonl:2: not JSON"):
        read_demonstrations(data, policy)
    data.write_text("\n")
    with pytest.raises(Stop, match="is empty"):
        read_demonstrations(data, policy)
