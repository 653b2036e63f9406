"""Log-probs through a head whose logits are never kept, against those that are.

Axes: N tokens, H hidden units, V vocabulary.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from volley.learner.head import ROWS_MULTIPLE, Head, log_probs_of_hidden
from volley.learner.log_probs import log_probs_of_logits


def make(num_tokens: int, vocab_size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Targets, hidden states, weight and bias, float64 with gradient."""
    generator = torch.Generator().manual_seed(seed)
    hidden_NH = torch.randn(num_tokens, 5, generator=generator, dtype=torch.float64)
    weight_VH = torch.randn(vocab_size, 5, generator=generator, dtype=torch.float64)
    bias_V = torch.randn(vocab_size, generator=generator, dtype=torch.float64)
    targets_N = torch.randint(vocab_size, (num_tokens,), generator=generator)
    for leaf in (hidden_NH, weight_VH, bias_V):
        leaf.requires_grad_()
    return targets_N, hidden_NH, weight_VH, bias_V


def test_a_distribution_worked_by_hand():
    # One hidden unit of 1, so the weights are the logits: odds 1 : 2 : 3, squared at 1/2.
    weight_VH = torch.tensor([[1.0], [2.0], [3.0]]).log()
    logprobs_N, entropy_N = log_probs_of_hidden(
        torch.tensor([1, 2]), torch.ones(2, 1), Head(weight_VH), temperature=0.5
    )
    assert logprobs_N.tolist() == pytest.approx([math.log(4 / 14), math.log(9 / 14)])
    entropy = -sum(odds / 14 * math.log(odds / 14) for odds in (1, 4, 9))
    assert entropy_N.tolist() == pytest.approx([entropy, entropy])


@settings(deadline=None, max_examples=60)
@given(
    num_tokens=st.integers(1, 9),
    vocab_size=st.integers(2, 3 * ROWS_MULTIPLE + 5),
    temperature=st.floats(0.3, 2.0),
    softcap=st.sampled_from([None, 1.5]),
    has_bias=st.booleans(),
    logits_at_once=st.sampled_from([1, 1000, 10**6]),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_are_those_of_kept_logits(
    num_tokens, vocab_size, temperature, softcap, has_bias, logits_at_once, seed
):
    targets_N, hidden_NH, weight_VH, bias_V = make(num_tokens, vocab_size, seed)
    head = Head(weight_VH, bias_V if has_bias else None, softcap)
    leaves = [hidden_NH, weight_VH, *([bias_V] if has_bias else [])]
    found = log_probs_of_hidden(targets_N, hidden_NH, head, temperature, logits_at_once)
    expected = log_probs_of_logits(targets_N, head.logits(hidden_NH), temperature)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weights_N = torch.linspace(-1, 2, num_tokens, dtype=torch.float64)
    pulls = [
        torch.autograd.grad((weights_N * (one[0] + 0.3 * one[1])).sum(), leaves)
        for one in (found, expected)
    ]
    torch.testing.assert_close(pulls[0], pulls[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("which", [0, 1])
def test_either_output_alone_has_a_gradient(which):
    targets_N, hidden_NH, weight_VH, _ = make(4, 200)
    head = Head(weight_VH)
    found = log_probs_of_hidden(targets_N, hidden_NH, head, 0.7, 1)[which]
    expected = log_probs_of_logits(targets_N, head.logits(hidden_NH), 0.7)[which]
    pulls = [torch.autograd.grad(one.sum(), [hidden_NH, weight_VH]) for one in (found, expected)]
    torch.testing.assert_close(pulls[0], pulls[1], rtol=1e-9, atol=1e-11)


def test_gradients_are_those_of_finite_differences():
    targets_N, hidden_NH, weight_VH, bias_V = make(3, ROWS_MULTIPLE + 3)

    def both(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
        return log_probs_of_hidden(targets_N, hidden_NH, Head(weight_VH, bias_V, 2.0), 0.8, 1)

    assert torch.autograd.gradcheck(both, (hidden_NH, weight_VH, bias_V), fast_mode=True)


def test_no_tensor_of_all_logits_is_ever_made():
    sizes: list[int] = []

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(one.numel() for one in [out] if isinstance(one, Tensor))
            return out

    num_tokens, vocab_size = 64, 40 * ROWS_MULTIPLE
    targets_N, hidden_NH, weight_VH, _ = make(num_tokens, vocab_size)
    with Watching():
        logprobs_N, _ = log_probs_of_hidden(
            targets_N, hidden_NH, Head(weight_VH), 1.0, 4 * ROWS_MULTIPLE * num_tokens
        )
        logprobs_N.sum().backward()
    assert max(sizes) < num_tokens * vocab_size / 5


def test_bfloat16_is_normalised_in_float32():
    weight_VH = torch.zeros(3, 1, dtype=torch.bfloat16)
    logprobs_N, entropy_N = log_probs_of_hidden(
        torch.tensor([0]), torch.ones(1, 1, dtype=torch.bfloat16), Head(weight_VH), 1.0
    )
    assert logprobs_N.dtype is torch.float32
    assert logprobs_N.item() == pytest.approx(-math.log(3), abs=1e-6)
    assert entropy_N.item() == pytest.approx(math.log(3), abs=1e-6)
