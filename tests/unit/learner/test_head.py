"""Axes: N tokens, H hidden units, V vocabulary."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from volley.learner.head import ROWS_MULTIPLE, Head, log_probs_of_hidden
from volley.learner.log_probs import log_probs_of_logits

TEMPERATURE = 0.7
NUM_HIDDEN = 3


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def make_head(
    vocab_size: int, *, bias: bool, softcap: float | None, dtype: torch.dtype = torch.float64
) -> Head:
    return Head(
        random(vocab_size, NUM_HIDDEN, seed=1, dtype=dtype).requires_grad_(),
        random(vocab_size, seed=2, dtype=dtype).requires_grad_() if bias else None,
        softcap,
    )


def test_log_probs_and_entropy_of_a_distribution_worked_by_hand():
    # Logits log 1, log 2, log 3; at temperature 1/2 the odds are 1 : 4 : 9.
    head = Head(torch.tensor([[1.0], [2.0], [3.0]]).log())
    logprobs_N, entropy_N = log_probs_of_hidden(torch.tensor([1]), torch.ones(1, 1), head, 0.5)
    assert logprobs_N.item() == pytest.approx(math.log(4 / 14))
    entropy = -sum(odds / 14 * math.log(odds / 14) for odds in (1, 4, 9))
    assert entropy_N.item() == pytest.approx(entropy)


def test_the_gradient_of_a_log_prob_worked_by_hand():
    # Odds 1 : 2 : 3, so the gradient at the logits is (0, 1, 0) - (1, 2, 3) / 6.
    head = Head(torch.tensor([[1.0], [2.0], [3.0]]).log().requires_grad_())
    logprobs_N, _ = log_probs_of_hidden(torch.tensor([1]), torch.ones(1, 1), head, 1.0)
    logprobs_N.backward()
    assert head.weight_VH.grad is not None
    expected_VH = torch.tensor([[-1 / 6], [4 / 6], [-3 / 6]])
    torch.testing.assert_close(head.weight_VH.grad, expected_VH)


def test_logits_far_apart_do_not_overflow():
    head = Head(torch.tensor([[1e4], [-1e4], [0.0]]))
    logprobs_N, entropy_N = log_probs_of_hidden(torch.tensor([2]), torch.ones(1, 1), head, 1.0)
    assert (logprobs_N.item(), entropy_N.item()) == (-1e4, 0)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_is_that_of_finite_differences(bias: bool, softcap: float | None):
    # Three chunks, the last one smaller.
    head = make_head(2 * ROWS_MULTIPLE + 5, bias=bias, softcap=softcap)
    targets_N = torch.tensor([0, ROWS_MULTIPLE, 2 * ROWS_MULTIPLE + 4, 7])

    def found(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> tuple[Tensor, ...]:
        one = Head(weight_VH, bias_V, softcap)
        return log_probs_of_hidden(targets_N, hidden_NH, one, TEMPERATURE, logits_at_once=1)

    hidden_NH = random(4, NUM_HIDDEN, seed=3).requires_grad_()
    inputs = (hidden_NH, head.weight_VH, head.bias_V)
    assert torch.autograd.gradcheck(found, inputs, fast_mode=True)  # type: ignore[arg-type]  # None


@settings(max_examples=40, deadline=None)
@given(
    num_tokens=st.integers(1, 9),
    vocab_size=st.integers(1, 5 * ROWS_MULTIPLE),
    logits_at_once=st.integers(1, 30 * ROWS_MULTIPLE),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 1.5]),
    pulls=st.sampled_from([(1.0, 0.0), (0.0, 1.0), (1.0, -0.3)]),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients_are_those_of_plain_logits(
    num_tokens: int,
    vocab_size: int,
    logits_at_once: int,
    bias: bool,
    softcap: float | None,
    pulls: tuple[float, float],
    seed: int,
):
    head = make_head(vocab_size, bias=bias, softcap=softcap)
    hidden_NH = random(num_tokens, NUM_HIDDEN, seed=seed).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    targets_N = torch.randint(vocab_size, (num_tokens,), generator=generator)
    weights_N = random(num_tokens, seed=seed + 1)
    leaves = [leaf for leaf in (hidden_NH, head.weight_VH, head.bias_V) if leaf is not None]
    results = []
    for logprobs_N, entropy_N in (
        log_probs_of_hidden(targets_N, hidden_NH, head, TEMPERATURE, logits_at_once),
        log_probs_of_logits(targets_N, head.logits(hidden_NH), TEMPERATURE),
    ):
        total = (weights_N * (pulls[0] * logprobs_N + pulls[1] * entropy_N)).sum()
        results.append((logprobs_N, entropy_N, *torch.autograd.grad(total, leaves)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_what_nobody_asks_for_costs_no_gradient():
    head = make_head(10, bias=False, softcap=None)
    hidden_NH = random(2, NUM_HIDDEN, seed=0).requires_grad_()
    frozen = Head(head.weight_VH.detach())
    logprobs_N, _ = log_probs_of_hidden(torch.tensor([1, 2]), hidden_NH, frozen, TEMPERATURE)
    logprobs_N.sum().backward()
    trained_NH = hidden_NH.grad
    hidden_NH.grad = None
    logprobs_N, _ = log_probs_of_hidden(torch.tensor([1, 2]), hidden_NH, head, TEMPERATURE)
    logprobs_N.sum().backward()
    assert frozen.weight_VH.grad is None
    torch.testing.assert_close(trained_NH, hidden_NH.grad, rtol=0, atol=0)


def test_bfloat16_logits_are_normalised_in_float32_and_gradients_keep_the_dtype():
    head = make_head(300, bias=False, softcap=None, dtype=torch.bfloat16)
    hidden_NH = random(4, NUM_HIDDEN, seed=0, dtype=torch.bfloat16).requires_grad_()
    targets_N = torch.tensor([0, 100, 200, 299])
    logprobs_N, _ = log_probs_of_hidden(targets_N, hidden_NH, head, 1.0, logits_at_once=1)
    logits_NV = head.logits(hidden_NH)
    assert logits_NV.dtype is torch.bfloat16
    expected_N = logits_NV.float().log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    torch.testing.assert_close(logprobs_N, expected_N, rtol=0, atol=1e-5)
    found = torch.autograd.grad(logprobs_N.sum(), [hidden_NH, head.weight_VH])
    expected = torch.autograd.grad(expected_N.sum(), [hidden_NH, head.weight_VH])
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
