"""The float32 truth behind a model's parameters, and AdamW over it.

The forward runs on the parameters, whose cast is published. A float32 parameter is its own master;
a bfloat16 one has a float32 copy beside it, since most updates are smaller than half a bfloat16
step and would be rounded away. Gradients add up in float32 for the same reason.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.nn import Parameter


@dataclass(frozen=True, slots=True)
class AdamWRules:
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    """Of matrices; norms and biases are not decayed."""
    max_grad_norm: float


class Masters:
    """Masters, gradients and optimiser state of one model."""

    def __init__(self, parameters: Iterable[Parameter], rules: AdamWRules) -> None:
        self._pairs = [(parameter, _master_of(parameter)) for parameter in parameters]
        self._max_grad_norm = rules.max_grad_norm
        matrices = [master for _, master in self._pairs if master.dim() >= 2]
        others = [master for _, master in self._pairs if master.dim() < 2]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": rules.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(rules.beta1, rules.beta2),
            eps=rules.epsilon,
            fused=True,
        )

    @property
    def masters(self) -> list[Parameter]:
        """In the order of the parameters."""
        return [master for _, master in self._pairs]

    def add_gradients(self) -> None:
        """Take over what a backward left on the parameters; call after each one."""
        for parameter, master in self._pairs:
            if master is not parameter and parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    def clip_gradients(self) -> torch.Tensor:
        """Scale the gradients down to max_grad_norm together; returns the norm before."""
        return torch.nn.utils.clip_grad_norm_(self.masters, self._max_grad_norm)

    def step(self, learning_rate: float) -> None:
        """One AdamW step with the gradients at hand, cast into the parameters."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.drop_gradients()
        with torch.no_grad():
            for parameter, master in self._pairs:
                if master is not parameter:
                    parameter.copy_(master)

    def drop_gradients(self) -> None:
        """Forget the gradients at hand."""
        self._optimizer.zero_grad(set_to_none=True)


def _master_of(parameter: Parameter) -> Parameter:
    if parameter.dtype is torch.float32:
        return parameter
    return Parameter(parameter.detach().float())
