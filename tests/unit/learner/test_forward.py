"""Against a plain forward and backward of one unpadded sequence after the other.

Axes: T tokens of a completion, V vocabulary.
"""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from volley.learner.batching import TrainSequence, micro_batches
from volley.learner.forward import Forward

TEMPERATURE = 0.7
VOCAB_SIZE = 200
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    # Far from uniform, so that wrong maths shows.
    "initializer_range": 0.2,
}
CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "qwen3": ("qwen3", {**SIZES, "tie_word_embeddings": True}),
    "qwen3, untied": ("qwen3", {**SIZES, "tie_word_embeddings": False}),
    "qwen3, sliding window": (
        "qwen3",
        {**SIZES, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    ),
    "gpt2": (
        "gpt2",
        {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
        | {"initializer_range": 0.2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "gemma2, capped logits": (
        "gemma2",
        {**SIZES, "final_logit_softcapping": 5.0, "sliding_window": 8},
    ),
    "cohere, scaled logits": ("cohere", {**SIZES, "logit_scale": 0.5}),
}
SHARING = ("qwen3", "qwen3, untied", "gpt2", "cohere, scaled logits")


@cache
def load(name: str) -> tuple[PreTrainedModel, PreTrainedModel, Forward]:
    """A plain model, and one with the same weights that is run by the forward."""
    torch.manual_seed(0)
    kind, options = CONFIGS[name]
    plain, model = (
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options)).eval() for _ in "12"
    )
    model.load_state_dict(plain.state_dict())
    return plain, model, Forward(model)


@st.composite
def ragged_groups(draw: st.DrawFn) -> list[TrainSequence]:
    """Some prompts with some completions each, of all lengths, partly trained."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def token_ids(num_tokens: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCAB_SIZE, (num_tokens,), generator=generator).tolist())

    sequences = []
    for num_completions in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)):
        prompt_ids = token_ids(draw(st.integers(1, 9)))
        for _ in range(num_completions):
            num_tokens = draw(st.integers(1, 9))
            trained = draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
            trained[draw(st.integers(0, num_tokens - 1))] = True
            weight = torch.randn(1, generator=generator).item()
            sequences.append(
                TrainSequence(
                    *(prompt_ids, token_ids(num_tokens), tuple(trained)),
                    *((0.0,) * num_tokens, weight),
                )
            )
    return sequences


def found_with_gradient(
    forward: Forward, model: PreTrainedModel, sequences: Sequence[TrainSequence], token_budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted log-probs and entropies of trained tokens, and the gradient of a weighted sum."""
    share_from = 0 if forward.shares_prompts else None
    logprobs, entropies = [], []
    for batch in micro_batches(sequences, token_budget, share_from):
        found = forward.log_probs(batch, TEMPERATURE)
        weights_B1 = batch.advantages_B[:, None]
        (weights_B1 * (found.policy_logprobs_BT + 0.1 * found.entropy_BT)).sum().backward()
        logprobs.append(found.policy_logprobs_BT[batch.mask_BT])
        entropies.append(found.entropy_BT[batch.mask_BT])
    return _sorted(logprobs), _sorted(entropies), take_gradient(model)


def expected_with_gradient(
    model: PreTrainedModel, sequences: Sequence[TrainSequence]
) -> tuple[Tensor, Tensor, Tensor]:
    logprobs, entropies = [], []
    for one in sequences:
        ids = torch.tensor([one.prompt_ids + one.completion_ids])
        start = len(one.prompt_ids)
        logprobs_TV = (model(ids).logits[0, start - 1 : -1] / TEMPERATURE).log_softmax(-1)
        trained_T = torch.tensor(one.trained)
        logprobs_T = logprobs_TV.gather(-1, ids[0, start:, None])[:, 0][trained_T]
        entropy_T = -(logprobs_TV.exp() * logprobs_TV).sum(-1)[trained_T]
        (one.advantage * (logprobs_T + 0.1 * entropy_T).sum()).backward()
        logprobs.append(logprobs_T)
        entropies.append(entropy_T)
    return _sorted(logprobs), _sorted(entropies), take_gradient(model)


def take_gradient(model: PreTrainedModel) -> Tensor:
    """Of all parameters as one vector, which leaves none."""
    grads = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
    model.zero_grad()
    return torch.cat(grads)


def _sorted(values: list[Tensor]) -> Tensor:
    return torch.cat(values).detach().sort().values


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=12, deadline=None)
@given(sequences=ragged_groups(), token_budget=st.sampled_from([20, 60, 1000]))
def test_log_probs_entropies_and_gradients_are_the_plain_ones(
    name: str, sequences: list[TrainSequence], token_budget: int
):
    plain, model, forward = load(name)
    found = found_with_gradient(forward, model, sequences, token_budget)
    expected = expected_with_gradient(plain, sequences)
    torch.testing.assert_close(found[:2], expected[:2], rtol=0, atol=1e-5)
    assert (found[2] - expected[2]).norm() <= 1e-5 * expected[2].norm()


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own doings
def test_compiled_layers_give_the_plain_numbers_too():
    name = "qwen3"
    plain, model, _ = load(name)
    sequences = [
        TrainSequence((1, 2, 3), ids, (True,) * len(ids), (0.0,) * len(ids), 1.0)
        for ids in ((4, 5, 6), (7,), (8, 9, 10, 11))
    ]
    found = found_with_gradient(Forward(model, compiles=True), model, sequences, 1000)
    load.cache_clear()
    expected = expected_with_gradient(plain, sequences)
    torch.testing.assert_close(found[:2], expected[:2], rtol=0, atol=1e-5)
    assert (found[2] - expected[2]).norm() <= 1e-5 * expected[2].norm()


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_are_shared_where_the_attention_allows_it(name: str):
    *_, forward = load(name)
    assert forward.shares_prompts == (name in SHARING)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_kept_only_where_the_head_is_no_linear_map(name: str):
    *_, forward = load(name)
    sizes = []
    sequence = TrainSequence((1, 2), (3, 4, 5), (True,) * 3, (0.0,) * 3, 1.0)
    [batch] = micro_batches([sequence], token_budget=10)

    def note(saved: Tensor) -> Tensor:
        sizes.append(tuple(saved.shape))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        forward.log_probs(batch, TEMPERATURE)
    keeps_logits = any(size[-1:] == (VOCAB_SIZE,) for size in sizes)
    assert keeps_logits == (name == "cohere, scaled logits")
