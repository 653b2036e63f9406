"""Axes: B sequences, L tokens, T tokens of a completion."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tests.losses import make_loss_rules
from tests.tiny_models import CONTEXT_LENGTH, VOCAB
from volley.learner.batching import TrainSequence, micro_batches
from volley.learner.corrections import uncorrected
from volley.learner.loss import Normaliser, TokenLogProbs, compute_loss
from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.telemetry.stops import Stop

TEMPERATURE = 0.7


def load(folder: Path, dtype: str = "float32", **changes: object) -> Policy:
    settings = ModelSettings.model_validate({"path": str(folder), "dtype": dtype} | changes)
    return Policy.load(settings, "cpu")


def sequence(num_prompt: int, num_completion: int, seed: int = 0) -> TrainSequence:
    """Random tokens; the environment inserted every third token of the completion."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, len(VOCAB), (num_prompt + num_completion,), generator=generator).tolist()
    logprobs = (-torch.rand(num_completion, generator=generator) * 4).tolist()
    return TrainSequence(
        prompt_ids=tuple(ids[:num_prompt]),
        completion_ids=tuple(ids[num_prompt:]),
        trained=tuple(index % 3 != 2 for index in range(num_completion)),
        sampler_logprobs=tuple(logprobs),
        advantage=1.0 if seed % 2 else -0.7,
    )


UNEVEN = [sequence(2 + index % 4, 3 + 4 * (index % 3), seed=index) for index in range(8)]


@pytest.fixture(params=["qwen3_folder", "gpt2_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_recomputed_log_probs_are_those_of_a_plain_unpadded_forward(
    folder: Path, gradient_checkpointing: bool
):
    policy = load(folder, gradient_checkpointing=gradient_checkpointing)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    [batch] = micro_batches(UNEVEN, token_budget=10_000)
    found = policy.recompute_log_probs(batch, TEMPERATURE)
    by_length = sorted(UNEVEN, key=lambda one: one.num_tokens, reverse=True)
    for row, one in enumerate(by_length):
        ids = torch.tensor([one.prompt_ids + one.completion_ids])
        with torch.no_grad():
            logprobs_TV = (plain(ids).logits[0] / TEMPERATURE).log_softmax(-1)
        start = len(one.prompt_ids)
        expected_T = logprobs_TV[start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]
        entropy_T = -(logprobs_TV.exp() * logprobs_TV).sum(-1)[start - 1 : -1]
        trained_T = torch.tensor(one.trained)
        mask_T = batch.mask_BT[row]
        torch.testing.assert_close(
            found.policy_logprobs_BT[row][mask_T], expected_T[trained_T], rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            found.entropy_BT[row][mask_T], entropy_T[trained_T], rtol=0, atol=1e-5
        )


def gradients(policy: Policy, token_budget: int, loss_type: str) -> tuple[int, Tensor]:
    """How many micro-batches there were, and the gradient of all parameters as one vector."""
    rules = make_loss_rules(loss_type, beta=0.1)
    normaliser = Normaliser(len(UNEVEN), sum(one.num_trained_tokens for one in UNEVEN), 16)
    batches = micro_batches(UNEVEN, token_budget)
    for batch in batches:
        now = policy.recompute_log_probs(batch, TEMPERATURE).policy_logprobs_BT
        # Half a nat off the policy, so that ratio, clip and KL all take part.
        sampler_BT = now.detach() + 0.5 * batch.sampler_logprobs_BT.sin()
        compute_loss(
            TokenLogProbs(now, sampler_BT),
            uncorrected(batch.mask_BT),
            batch.advantages_B,
            batch.mask_BT,
            rules,
            normaliser,
        ).loss.backward()
    grads = [one.grad.flatten() for one in policy.parameters().values() if one.grad is not None]
    for parameter in policy.parameters().values():
        parameter.grad = None
    return len(batches), torch.cat(grads)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_one_micro_batch_and_four_have_the_same_gradient(folder: Path, loss_type: str):
    policy = load(folder)
    num_whole, whole = gradients(policy, 10_000, loss_type)
    num_parts, parts = gradients(policy, 30, loss_type)
    assert (num_whole, num_parts) == (1, 4)
    assert whole.norm() > 0.01
    assert ((whole - parts).norm() / whole.norm()).item() < 1e-5


def test_gradient_checkpointing_changes_no_gradient_and_dropout_stays_off(folder: Path):
    _, plain = gradients(load(folder, gradient_checkpointing=False), 10_000, "dapo")
    _, checkpointed = gradients(load(folder, gradient_checkpointing=True), 10_000, "dapo")
    assert ((plain - checkpointed).norm() / plain.norm()).item() < 1e-6


def test_layers_that_cannot_be_compiled_are_refused_at_once(qwen3_folder: Path):
    # In a process of its own: what compiles is looked for once.
    program = (
        "from volley.learner.policy import Policy; from volley.learner.settings import *; "
        f"Policy.load(ModelSettings(path={str(qwen3_folder)!r}, torch_compile=True), 'cpu')"
    )
    environment = {"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert "model.torch_compile: InvalidCxxCompiler" in process.stderr.splitlines()[-1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_published_tensors_are_what_save_pretrained_writes(
    folder: Path, dtype: str, tmp_path: Path
):
    policy = load(folder, dtype)
    policy.save_pretrained(tmp_path)
    published = policy.published_tensors()
    with safe_open(tmp_path / "model.safetensors", "pt") as saved:
        assert set(published) == set(saved.keys())
        for name, tensor in published.items():
            assert tensor.dtype is getattr(torch, dtype)
            assert torch.equal(tensor, saved.get_tensor(name))


def test_a_saved_model_loads_as_the_same_policy(folder: Path, tmp_path: Path):
    policy = load(folder)
    policy.save_pretrained(tmp_path)
    [batch] = micro_batches(UNEVEN, token_budget=10_000)
    first = policy.recompute_log_probs(batch, TEMPERATURE).policy_logprobs_BT
    second = load(tmp_path).recompute_log_probs(batch, TEMPERATURE).policy_logprobs_BT
    assert torch.equal(first, second)


def test_dropout_rates_survive_training_in_the_saved_configuration(gpt2_folder: Path):
    files = load(gpt2_folder).model_files()
    assert json.loads(files["config.json"])["resid_pdrop"] == 0.1


def test_model_files_hold_everything_but_the_weights(qwen3_folder: Path, tmp_path: Path):
    policy = load(qwen3_folder)
    files = policy.model_files()
    assert set(files) == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    missing, unexpected = empty.load_state_dict(policy.published_tensors(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])


def test_stop_ids_are_those_of_model_tokenizer_and_settings_once(qwen3_folder: Path):
    policy = load(qwen3_folder)
    assert policy.stop_token_ids() == (VOCAB["<eos>"],)
    assert policy.stop_token_ids((VOCAB["="], VOCAB["<eos>"])) == (VOCAB["<eos>"], VOCAB["="])


def test_sizes_come_from_the_model(folder: Path):
    policy = load(folder)
    assert policy.vocab_size == len(VOCAB)
    assert policy.context_length == CONTEXT_LENGTH


def test_a_part_is_tokenised_as_it_stands_and_the_end_apart(qwen3_folder: Path):
    policy = load(qwen3_folder)
    assert policy.tokenise_part("ab") == [VOCAB["a"], VOCAB["b"]]
    assert policy.end_token_id == VOCAB["<eos>"]


def test_chat_messages_go_through_the_template(qwen3_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(qwen3_folder, tmp_path / "chat"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}>{% endfor %}"
        "{% if add_generation_prompt %}={% endif %}"
    )
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = [VOCAB[character] for character in "a>b>="]
    assert load(folder).tokenise(["ab", chat]) == [[VOCAB["a"], VOCAB["b"]], ids]


def test_the_template_is_told_what_the_settings_say_and_shown_the_tools(
    qwen3_folder: Path, tmp_path: Path
):
    template = tmp_path / "own.jinja"
    template.write_text("{{ messages[0].content }}{{ 'x' if thinking }}{{ tools[0].name }}")
    path = {"path": str(qwen3_folder), "dtype": "float32", "chat_template": template}
    texts = []
    for thinking in (True, False):
        settings = ModelSettings.model_validate(
            {**path, "chat_template_kwargs": {"thinking": thinking}}
        )
        policy = Policy.load(settings, "cpu", [{"name": "t"}])
        texts += policy.tokenise([[{"role": "user", "content": "a"}]])
    a, x, t = (VOCAB[letter] for letter in "axt")
    assert texts == [[a, x, t], [a, t]]
    # Who loads the model that is left has the template, too.
    assert policy.model_files()["chat_template.jinja"] == template.read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chat_template": "absent.jinja"}, "model.chat_template: cannot read absent.jinja"),
        ({"chat_template_kwargs": {"tools": []}}, "tools is not yours to set"),
    ],
)
def test_a_template_or_arguments_that_cannot_be_used_are_refused(qwen3_folder, changes, words):
    with pytest.raises(Stop) as caught:
        load(qwen3_folder, **changes)
    assert words in caught.value.message


def test_chat_messages_without_a_template_are_refused(qwen3_folder: Path):
    with pytest.raises(Stop, match="no chat template"):
        load(qwen3_folder).tokenise([[{"role": "user", "content": "a"}]])
