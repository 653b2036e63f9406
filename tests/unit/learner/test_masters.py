import math

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from tests.checkpoints import make_state
from volley.learner.checkpoint import Checkpoints
from volley.learner.masters import AdamWRules, Masters


def rules(**changes) -> AdamWRules:
    fields = {
        "beta1": 0.9,
        "beta2": 0.95,
        "epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
    }
    return AdamWRules(**(fields | changes))


def give_gradient(parameter: Parameter, value: float) -> None:
    parameter.grad = torch.full_like(parameter, value)


def make_model(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Matrices and vectors, and a parameter that never gets a gradient."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    model.register_parameter("unused", Parameter(torch.ones(3, 3, dtype=dtype)))
    return model


def make_masters(model: nn.Module, **changes) -> Masters:
    return Masters(dict(model.named_parameters()), rules(weight_decay=0.1, **changes))


def train(model: nn.Module, masters: Masters, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        model(inputs).square().sum().backward()
        masters.add_gradients()
        masters.clip_gradients()
        masters.step(learning_rate=0.01)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_a_float32_parameter_is_its_own_master():
    parameter = Parameter(torch.ones(2, 2))
    assert Masters({"a": parameter}, rules()).masters[0] is parameter


def test_updates_below_half_a_bfloat16_step_are_kept_until_they_show():
    parameter = Parameter(torch.ones(1, 1, dtype=torch.bfloat16))
    masters = Masters({"a": parameter}, rules())
    for _ in range(40):
        give_gradient(parameter, 1.0)
        masters.add_gradients()
        masters.step(learning_rate=1e-4)
        # A constant gradient moves AdamW by the learning rate; bfloat16 below 1 has steps of 2^-8.
        assert parameter.item() == masters.masters[0].bfloat16().item()
    assert masters.masters[0].item() == pytest.approx(1 - 40e-4, abs=1e-6)
    assert parameter.item() == 1 - 2**-8


def test_one_such_update_leaves_the_parameter_alone():
    parameter = Parameter(torch.ones(1, 1, dtype=torch.bfloat16))
    masters = Masters({"a": parameter}, rules())
    give_gradient(parameter, 1.0)
    masters.add_gradients()
    masters.step(learning_rate=1e-4)
    assert parameter.item() == 1.0
    assert masters.masters[0].item() < 1.0


def test_gradients_of_micro_batches_add_up_in_float32():
    parameter = Parameter(torch.ones(1, 1, dtype=torch.bfloat16))
    masters = Masters({"a": parameter}, rules())
    for value in (1.0, 2**-9, 2**-9):
        give_gradient(parameter, value)
        masters.add_gradients()
        assert parameter.grad is None
    assert masters.masters[0].grad is not None
    assert masters.masters[0].grad.item() == 1 + 2**-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_clipped_together_and_the_norm_is_that_before(dtype):
    parameters = [Parameter(torch.zeros(1, 1, dtype=dtype)), Parameter(torch.zeros(1, dtype=dtype))]
    masters = Masters({"a": parameters[0], "b": parameters[1]}, rules(max_grad_norm=0.5))
    give_gradient(parameters[0], 3.0)
    give_gradient(parameters[1], 4.0)
    masters.add_gradients()
    assert masters.clip_gradients().item() == 5.0
    clipped = [master.grad.item() for master in masters.masters if master.grad is not None]
    assert clipped == pytest.approx([0.3, 0.4], abs=1e-5)


def test_matrices_are_decayed_and_norms_are_not():
    matrix, norm = Parameter(torch.ones(2, 2)), Parameter(torch.ones(2))
    masters = Masters({"a": matrix, "b": norm}, rules(weight_decay=0.1))
    give_gradient(matrix, 0.0)
    give_gradient(norm, 0.0)
    masters.step(learning_rate=0.5)
    assert matrix.flatten().tolist() == pytest.approx([0.95] * 4)
    assert norm.tolist() == [1.0, 1.0]


def test_the_first_step_is_that_of_the_adamw_paper():
    parameter = Parameter(torch.tensor([[2.0]]))
    masters = Masters({"a": parameter}, rules(epsilon=0.5))
    give_gradient(parameter, 3.0)
    masters.step(learning_rate=0.1)
    # After bias correction the moments are g and g^2.
    assert parameter.item() == pytest.approx(2 - 0.1 * 3 / (math.sqrt(9) + 0.5))
    assert parameter.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_steps", [0, 3])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, dtype, num_steps):
    checkpoints = Checkpoints(tmp_path, keep=2)
    model = make_model(seed=0, dtype=dtype)
    masters = make_masters(model)
    train(model, masters, range(num_steps))
    checkpoints.save(make_state(num_steps), masters.tensors())
    train(model, masters, range(num_steps, 6))

    again = make_model(seed=1, dtype=dtype)
    restored = make_masters(again)
    restored.restore(next(checkpoints.valid()).tensors())
    train(again, restored, range(num_steps, 6))
    assert_same(restored.tensors(), masters.tensors())
    assert_same(dict(again.named_parameters()), dict(model.named_parameters()))


def test_what_was_trained_is_there_before_the_next_step():
    model, again = make_model(0, torch.bfloat16), make_model(1, torch.bfloat16)
    masters = make_masters(model)
    train(model, masters, range(2))
    make_masters(again).restore(masters.tensors())
    assert_same(dict(again.named_parameters()), dict(model.named_parameters()))


def test_training_is_that_of_torch():
    ours, theirs = make_model(0), make_model(0)
    train(ours, make_masters(ours, max_grad_norm=math.inf), range(4))
    groups: list[dict[str, object]] = [
        {"params": [one for one in theirs.parameters() if one.dim() == 2]},
        {"params": [one for one in theirs.parameters() if one.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=0.01,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=True,
    )
    for step in range(4):
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        theirs(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(dict(ours.named_parameters()), dict(theirs.named_parameters()))


def test_tensors_have_names_that_say_what_they_are():
    assert list(Masters({"head.weight": Parameter(torch.ones(2, 2))}, rules()).tensors()) == [
        "master.head.weight",
        "step.head.weight",
        "exp_avg.head.weight",
        "exp_avg_sq.head.weight",
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"master.a": torch.ones(2)}, r"master\.a: float32 of shape \[2\] instead of .*\[1, 2\]"),
        ({"exp_avg.a": torch.ones(1, 2).double()}, r"exp_avg\.a: float64 .* instead of float32"),
        ({"master.b": torch.ones(1)}, r"master\.b: float32 of shape \[1\] instead of absent"),
        ({"step.a": None}, r"step\.a: absent instead of float32 of shape \[\]"),
    ],
)
def test_tensors_of_another_model_are_named_and_change_nothing(changes, complaint):
    masters = Masters({"a": Parameter(torch.zeros(1, 2))}, rules())
    given = {name: tensor + 1 for name, tensor in masters.tensors().items()} | changes
    with pytest.raises(ValueError, match=complaint):
        masters.restore({name: one for name, one in given.items() if one is not None})
    assert all(not tensor.any() for tensor in masters.tensors().values())


def test_other_rules_hold_from_the_next_step_on():
    parameter = Parameter(torch.tensor([[2.0]]))
    masters = Masters({"a": parameter}, rules())
    masters.adopt(rules(epsilon=0.5, weight_decay=0.1, max_grad_norm=2.0))
    give_gradient(parameter, 3.0)
    masters.clip_gradients()
    masters.step(learning_rate=0.1)
    # Clipped to 2, decayed by 0.1 x 0.1, then moved by 0.1 x 2 / (2 + 0.5).
    assert parameter.item() == pytest.approx(2 * 0.99 - 0.08)
