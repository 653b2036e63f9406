"""The float32 truth behind a model's parameters, and AdamW over it.

The forward runs on the parameters, whose cast is published. A float32 parameter is its own master;
a bfloat16 one has a float32 copy beside it, since most updates are smaller than half a bfloat16
step and would be rounded away. Gradients add up in float32 for the same reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

MASTER = "master"
"""Begins the names of masters; names of optimiser state begin as AdamW calls it."""


@dataclass(frozen=True, slots=True)
class AdamWRules:
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    """Of matrices; norms and biases are not decayed."""
    max_grad_norm: float


class Masters:
    """Masters, gradients and optimiser state of one model; its parameters by name."""

    def __init__(self, parameters: Mapping[str, Parameter], rules: AdamWRules) -> None:
        self._names = tuple(parameters)
        self._pairs = [(parameter, _master_of(parameter)) for parameter in parameters.values()]
        matrices = [master for master in self.masters if master.dim() >= 2]
        others = [master for master in self.masters if master.dim() < 2]
        self._optimizer = torch.optim.AdamW([{"params": matrices}, {"params": others}], fused=True)
        for master in self.masters:
            self._optimizer.state[master] = _first_state_of(master)
        self.adopt(rules)

    @property
    def masters(self) -> list[Parameter]:
        """In the order of the parameters."""
        return [master for _, master in self._pairs]

    def adopt(self, rules: AdamWRules) -> None:
        """Take the next steps under these rules."""
        self._max_grad_norm = rules.max_grad_norm
        matrices, others = self._optimizer.param_groups
        for group, weight_decay in ((matrices, rules.weight_decay), (others, 0.0)):
            group["betas"] = (rules.beta1, rules.beta2)
            group["eps"] = rules.epsilon
            group["weight_decay"] = weight_decay

    def tensors(self) -> dict[str, Tensor]:
        """Masters and optimiser state themselves, not copies, by name."""
        return {
            f"{kind}.{name}": tensor.detach()
            for name, master in zip(self._names, self.masters, strict=True)
            for kind, tensor in {MASTER: master, **self._optimizer.state[master]}.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Be as the masters were that gave these tensors; raises ValueError if they do not fit."""
        own = self.tensors()
        _check_fit(own, tensors)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self._cast()

    def add_gradients(self) -> None:
        """Take over what a backward left on the parameters; call after each one."""
        for parameter, master in self._pairs:
            if master is not parameter and parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    def clip_gradients(self) -> Tensor:
        """Scale the gradients down to max_grad_norm together; returns the norm before."""
        return torch.nn.utils.clip_grad_norm_(self.masters, self._max_grad_norm)

    def step(self, learning_rate: float) -> None:
        """One AdamW step with the gradients at hand, cast into the parameters."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.drop_gradients()
        self._cast()

    def drop_gradients(self) -> None:
        """Forget the gradients at hand."""
        self._optimizer.zero_grad(set_to_none=True)

    def _cast(self) -> None:
        """Let the parameters follow their masters."""
        with torch.no_grad():
            for parameter, master in self._pairs:
                if master is not parameter:
                    parameter.copy_(master)


def cast_masters(tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]) -> None:
    """Let parameters follow the masters in `tensors`; raises ValueError if they do not fit."""
    own = {
        f"{MASTER}.{name}": parameter.to("meta", torch.float32)
        for name, parameter in parameters.items()
    }
    given = {name: one for name, one in tensors.items() if name.startswith(f"{MASTER}.")}
    _check_fit(own, given)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(given[f"{MASTER}.{name}"])


def _master_of(parameter: Parameter) -> Parameter:
    if parameter.dtype is torch.float32:
        return parameter
    return Parameter(parameter.detach().float())


def _first_state_of(master: Parameter) -> dict[str, Tensor]:
    """What AdamW would make at its first step; made at once, so that it has a name before."""
    return {
        "step": torch.zeros((), device=master.device),
        "exp_avg": torch.zeros_like(master),
        "exp_avg_sq": torch.zeros_like(master),
    }


def _check_fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming one, if there are tensors that are not in both, or not alike."""
    differing = [
        f"{name}: {there} instead of {here}"
        for name in sorted(own.keys() | given.keys())
        if (here := _describe(own.get(name))) != (there := _describe(given.get(name)))
    ]
    if differing:
        raise ValueError(f"{differing[0]} (tensors that do not fit: {len(differing)})")


def _describe(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{tensor.dtype} of shape {list(tensor.shape)}".removeprefix("torch.")
