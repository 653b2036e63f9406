"""Adapters: what is trained with them, what is published, and what others make of it."""

from pathlib import Path

import pytest
import torch

from tests.tiny_models import VOCAB, load_plain
from volley.learner.batching import TrainSequence, micro_batches
from volley.learner.masters import AdamWRules, Masters
from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.telemetry.stops import Stop

SEQUENCES = [
    TrainSequence(
        *((VOCAB["a"], VOCAB["b"]), tuple(VOCAB[letter] for letter in word), (True,) * len(word)),
        *((0.0,) * len(word), weight),
    )
    for word, weight in (("cde", 1.0), ("f", -0.5), ("gh", 0.7))
]


def load(folder: Path, **changes: object) -> Policy:
    settings = {"path": str(folder), "dtype": "float32", "lora_r": 2} | changes
    return Policy.load(ModelSettings.model_validate(settings), "cpu")


def log_probs(policy: Policy) -> torch.Tensor:
    [batch] = micro_batches(SEQUENCES, token_budget=1000)
    found = policy.recompute_log_probs(batch, temperature=1.0).policy_logprobs_BT
    return found[batch.mask_BT]


def train(policy: Policy) -> None:
    """Two steps, for the first moves one half of each adapter only."""
    masters = Masters(policy.parameters(), AdamWRules(0.9, 0.95, 1e-8, 0.0, 1.0))
    for _ in range(2):
        log_probs(policy).sum().backward()
        masters.add_gradients()
        masters.step(learning_rate=0.05)


def test_a_policy_begins_as_the_model_that_it_adapts(qwen3_folder: Path):
    plain = load(qwen3_folder, lora_r=None)
    adapted = load(qwen3_folder)
    assert torch.equal(log_probs(adapted), log_probs(plain))
    expected = plain.published_tensors()
    published = adapted.published_tensors()
    assert published.keys() == expected.keys()
    assert all(torch.equal(published[name], tensor) for name, tensor in expected.items())


def test_every_process_begins_with_the_same_adapters(qwen3_folder: Path):
    first = load(qwen3_folder).parameters()
    torch.manual_seed(123)
    second = load(qwen3_folder).parameters()
    assert all(torch.equal(first[name], parameter) for name, parameter in second.items())


def test_two_factors_beside_each_map_are_trained_and_nothing_else(qwen3_folder: Path):
    sizes = [parameter.numel() for parameter in load(qwen3_folder).parameters().values()]
    # Of rank 2: q 32 x 64, k and v 32 x 32, o 64 x 32, gate and up 32 x 64, down 64 x 32.
    expected_of_layer = 2 * ((32 + 64) + 2 * (32 + 32) + (64 + 32) + 2 * (32 + 64) + (64 + 32))
    assert sum(sizes) == 2 * expected_of_layer


def test_chosen_maps_alone_get_adapters(qwen3_folder: Path):
    policy = load(qwen3_folder, lora_target_modules=["q_proj"])
    assert all(".q_proj." in name for name in policy.parameters())


def test_the_published_tensors_alone_are_the_trained_policy(qwen3_folder: Path, tmp_path: Path):
    policy = load(qwen3_folder)
    before = log_probs(policy)
    train(policy)
    after = log_probs(policy)
    assert (after - before).abs().max() > 0.05
    policy.save_pretrained(tmp_path)
    torch.testing.assert_close(log_probs(load(tmp_path, lora_r=None)), after, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_maps_that_are_kept_the_other_way_round_are_published_so(gpt2_folder: Path, tmp_path: Path):
    policy = load(gpt2_folder)
    train(policy)
    policy.save_pretrained(tmp_path)
    published = log_probs(load(tmp_path, lora_r=None))
    torch.testing.assert_close(published, log_probs(policy), rtol=0, atol=1e-5)
    assert (published - log_probs(load(gpt2_folder))).abs().max() > 0.05


def test_a_change_is_the_product_of_its_factors_times_alpha_over_rank(qwen3_folder: Path):
    policy = load(qwen3_folder, lora_r=2, lora_alpha=8)
    before = policy.published_tensors()
    train(policy)
    after = policy.published_tensors()
    place = "model.layers.1.mlp.down_proj"
    factors = policy.parameters()
    change = (
        8
        / 2
        * factors[f"{place}.lora_B.default.weight"]
        @ factors[f"{place}.lora_A.default.weight"]
    )
    assert change.norm() > 0.01
    torch.testing.assert_close(after[f"{place}.weight"], before[f"{place}.weight"] + change)
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_peft_loads_adapters_that_were_saved_alone(qwen3_folder: Path, tmp_path: Path):
    from peft import PeftModel

    policy = load(qwen3_folder)
    train(policy)
    policy.save_adapters(tmp_path)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"adapter_model.safetensors"}
    merged = PeftModel.from_pretrained(load_plain(qwen3_folder), tmp_path).merge_and_unload()
    expected = policy.published_tensors()
    found = merged.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def test_the_adapters_of_a_bfloat16_model_have_float32_masters(qwen3_folder: Path):
    policy = load(qwen3_folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in policy.parameters().values()} == {torch.bfloat16}
    assert {one.dtype for one in policy.published_tensors().values()} == {torch.bfloat16}
    before = log_probs(policy)
    train(policy)
    assert (log_probs(policy) - before).abs().max() > 0.05


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("targets", "reason"),
    [(["no_such_map"], "no_such_map"), (["embed_tokens"], "is used twice")],
)
def test_maps_that_cannot_be_adapted_are_refused(
    qwen3_folder: Path, targets: list[str], reason: str
):
    with pytest.raises(Stop, match=rf"model\.lora_target_modules: .*{reason}"):
        load(qwen3_folder, lora_target_modules=targets)
