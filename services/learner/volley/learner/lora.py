"""LoRA: low-rank changes beside a model's linear maps, which alone are trained.

This is all of the learner that knows peft. The adapters are parameters
of the model's dtype like any others, so masters, optimiser and checkpoints hold them alone. What is
published are the model's own tensors, the changes added in: engines need to know nothing of it.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop

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
    tied = model.all_tied_weights_keys
    changed_tied = _changed(model) & {*tied, *tied.values()}
    if changed_tied:
        raise _refused(f"{min(changed_tied)} is used twice, and would be changed in one place only")


def plain_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors under its own names, the adapters' changes added in."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner, is_beside, leaf = name.rpartition(BASE)
        if is_beside:
            layer = cast("LoraLayer", model.get_submodule(owner))
            tensors[f"{owner}.{leaf}"] = _changed_by(layer, tensor) if leaf == "weight" else tensor
        elif CHANGE not in name:
            tensors[name] = tensor
    return tensors


@torch.no_grad()
def _changed_by(layer: "LoraLayer", weight: Tensor) -> Tensor:
    change: Tensor = layer.get_delta_weight(ADAPTER)
    # In main memory, where it is published from: a second model may not fit beside the first.
    return (weight.float() + change.float()).to("cpu", weight.dtype)


def _changed(model: PreTrainedModel) -> set[str]:
    """Names of the tensors that adapters change."""
    return {
        name.replace(BASE, ".") for name in model.state_dict() if name.endswith(f"{BASE}weight")
    }


def _refused(reason: str) -> Stop:
    return Stop(
        ExitCode.CONFIG,
        f"model.lora_target_modules: {reason[:300]}: name linear maps of the model's layers, such "
        'as ["q_proj", "v_proj"], or leave it out for all of them',
    )
