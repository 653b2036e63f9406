import math

import pytest
import torch
from torch.nn import Parameter

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


def test_a_float32_parameter_is_its_own_master():
    parameter = Parameter(torch.ones(2, 2))
    assert Masters([parameter], rules()).masters[0] is parameter


def test_updates_below_half_a_bfloat16_step_are_kept_until_they_show():
    parameter = Parameter(torch.ones(1, 1, dtype=torch.bfloat16))
    masters = Masters([parameter], rules())
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
    masters = Masters([parameter], rules())
    give_gradient(parameter, 1.0)
    masters.add_gradients()
    masters.step(learning_rate=1e-4)
    assert parameter.item() == 1.0
    assert masters.masters[0].item() < 1.0


def test_gradients_of_micro_batches_add_up_in_float32():
    parameter = Parameter(torch.ones(1, 1, dtype=torch.bfloat16))
    masters = Masters([parameter], rules())
    for value in (1.0, 2**-9, 2**-9):
        give_gradient(parameter, value)
        masters.add_gradients()
        assert parameter.grad is None
    assert masters.masters[0].grad is not None
    assert masters.masters[0].grad.item() == 1 + 2**-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_clipped_together_and_the_norm_is_that_before(dtype):
    parameters = [Parameter(torch.zeros(1, 1, dtype=dtype)), Parameter(torch.zeros(1, dtype=dtype))]
    masters = Masters(parameters, rules(max_grad_norm=0.5))
    give_gradient(parameters[0], 3.0)
    give_gradient(parameters[1], 4.0)
    masters.add_gradients()
    assert masters.clip_gradients().item() == 5.0
    clipped = [master.grad.item() for master in masters.masters if master.grad is not None]
    assert clipped == pytest.approx([0.3, 0.4], abs=1e-5)


def test_matrices_are_decayed_and_norms_are_not():
    matrix, norm = Parameter(torch.ones(2, 2)), Parameter(torch.ones(2))
    masters = Masters([matrix, norm], rules(weight_decay=0.1))
    give_gradient(matrix, 0.0)
    give_gradient(norm, 0.0)
    masters.step(learning_rate=0.5)
    assert matrix.flatten().tolist() == pytest.approx([0.95] * 4)
    assert norm.tolist() == [1.0, 1.0]


def test_the_first_step_is_that_of_the_adamw_paper():
    parameter = Parameter(torch.tensor([[2.0]]))
    masters = Masters([parameter], rules(epsilon=0.5))
    give_gradient(parameter, 3.0)
    masters.step(learning_rate=0.1)
    # After bias correction the moments are g and g^2.
    assert parameter.item() == pytest.approx(2 - 0.1 * 3 / (math.sqrt(9) + 0.5))
    assert parameter.grad is None
