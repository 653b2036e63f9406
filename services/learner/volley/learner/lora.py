"""LoRA: low-rank changes beside a model's linear maps, which alone are trained.

This is all of the learner that knows peft. The adapters are parameters of the model's dtype like
any others, so masters, optimiser and checkpoints hold them alone. The wire carries them alone, too,
and workers add them to the model that they keep: engines need to know nothing of it.

The learner computes with base and change apart, an engine with their sum, rounded to the model's
dtype. So the two differ by that rounding, which the metrics of engine mismatch show.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.low_rank import LowRank, add_change

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"
# Names that peft gives: of the map that an adapter stands beside, and of the adapter.
BASE, CHANGE = ".base_layer.", ".lora_"


def add_adapters(model: PreTrainedModel, settings: ModelSettings) -> None:
    """Freeze the model and put adapters beside its maps; raises Stop where they do not fit."""
    # Seconds to import; only runs with adapters wait for it.
    from peft import LoraConfig

    targets = settings.lora_target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    try:
        # The same in every process that loads the model: a replay begins with them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.add_adapter(config, ADAPTER)
    except ValueError as error:
        raise _refused(str(error)) from error
    _check_changes(model)


@torch.no_grad()
def plain_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors under its own names, the adapters' changes added in."""
    tensors = base_tensors(model)
    for name, change in changes(model).items():
        changed = tensors[name].clone()
        add_change(changed, change)
        # In main memory, where it is published from: a second model may not fit beside the first.
        tensors[name] = changed.cpu()
    return tensors


def base_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors under its own names, as they are without adapters."""
    return {
        name.replace(BASE, "."): tensor
        for name, tensor in model.state_dict().items()
        if CHANGE not in name
    }


def changes(model: PreTrainedModel) -> dict[str, LowRank]:
    """What the adapters add, by the name of the tensor that they change."""
    return {
        f"{owner}.weight": _change_of(cast("LoraLayer", model.get_submodule(owner)))
        for owner in _owners(model)
    }


def _change_of(layer: "LoraLayer") -> LowRank:
    A, B = (factors[ADAPTER].weight.detach() for factors in (layer.lora_A, layer.lora_B))
    # Some maps, as GPT-2's, keep their matrix the other way round.
    if layer.fan_in_fan_out:
        A, B = B.T.contiguous(), A.T.contiguous()
    return LowRank(A, B, torch.tensor(layer.scaling[ADAPTER], device=A.device))


def _owners(model: PreTrainedModel) -> list[str]:
    """Names of the modules that adapters stand beside."""
    return [
        owner
        for owner, _, leaf in (name.rpartition(BASE) for name in model.state_dict())
        if owner and leaf == "weight"
    ]


def _check_changes(model: PreTrainedModel) -> None:
    """Raise Stop unless each adapter changes one matrix, in the one place where it is used."""
    tied = model.all_tied_weights_keys
    for owner in _owners(model):
        name = f"{owner}.weight"
        if name in {*tied, *tied.values()}:
            raise _refused(f"{name} is used twice, and would be changed in one place only")
        if ADAPTER not in cast("LoraLayer", model.get_submodule(owner)).lora_A:
            raise _refused(f"{name} is of no linear map")


def _refused(reason: str) -> Stop:
    return Stop(
        ExitCode.CONFIG,
        f"model.lora_target_modules: {reason[:300]}: name linear maps of the model's layers, such "
        'as ["q_proj", "v_proj"], or leave it out for all of them',
    )
