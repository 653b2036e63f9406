"""A model and its tokenizer from a folder or a hub, checked for what training needs.

Together with forward, shared_attention and lora, this is all of the learner that knows
transformers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils.logging import disable_progress_bar

from volley.learner.lora import add_adapters, base_tensors, plain_tensors
from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop

CHECKPOINTING_FROM_NUM_PARAMETERS = 1_000_000_000
MESSAGE_LENGTH = 300
GIVE = (
    "give the folder of a causal language model with its tokenizer, as save_pretrained writes it, "
    "or a model id that this machine can fetch"
)


@dataclass(frozen=True, slots=True, eq=False)
class Pretrained:
    """A causal language model on its device, in the mode it is trained in."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dropouts: dict[str, float]
    """The rates that its configuration had before they were set to 0."""


def load_pretrained(settings: ModelSettings, device: str) -> Pretrained:
    """The model that the settings name; raises Stop saying what it lacks."""
    disable_progress_bar()
    if settings.path.startswith(("/", ".", "~")) and not Path(settings.path).is_dir():
        raise Stop(ExitCode.CONFIG, f"model.path: there is no folder {settings.path}: {GIVE}")
    with _explaining(settings):
        config = AutoConfig.from_pretrained(settings.path, revision=settings.revision)
        tokenizer = _load_tokenizer(settings)
        dropouts = _take_dropouts(config)
        model = _load_model(settings, config)
    _check_published_names(model)
    if settings.lora_r is not None:
        add_adapters(model, settings)
    torch.nn.Module.to(model, resolve_device(device))
    _set_mode(model, settings.gradient_checkpointing)
    return Pretrained(model, tokenizer, dropouts)


def published_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors that `save_pretrained` writes, under its names: tied ones once."""
    return _each_once(model, plain_tensors(model))


def published_base(model: PreTrainedModel) -> dict[str, Tensor]:
    """The same without what adapters change."""
    return _each_once(model, base_tensors(model))


def save_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write published tensors as `save_pretrained` does."""
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(dict(tensors), folder)


def _each_once(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.contiguous()
        for name, tensor in tensors.items()
        if name not in model.all_tied_weights_keys
    }


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first accelerator there is, else the CPU."""
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise Stop(
            ExitCode.CONFIG,
            f"devices.learner: device {name} cannot be used: {reason}: use cpu or auto",
        ) from error
    return device


def _load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.path, revision=settings.revision)
    except ValueError as error:
        raise _no_tokenizer(settings.path) from error
    # Without tokenizer files transformers may make one up, of special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _no_tokenizer(settings.path)
    if settings.chat_template is not None:
        tokenizer.chat_template = _read_template(settings.chat_template)
    return tokenizer


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(ExitCode.CONFIG, f"model.chat_template: cannot read {path}: {error}") from error


def _no_tokenizer(path: str) -> Stop:
    return Stop(
        ExitCode.CONFIG,
        f"model.path: {path} has no tokenizer: save the model's there (save_pretrained)",
    )


def _load_model(settings: ModelSettings, config: PretrainedConfig) -> PreTrainedModel:
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            settings.path,
            revision=settings.revision,
            config=config,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attn_implementation,
            output_loading_info=True,
        )
    except ImportError as error:
        raise Stop(
            ExitCode.CONFIG,
            f"model.attn_implementation = {settings.attn_implementation!r}: {error}: "
            "install what it needs, or set it to sdpa",
        ) from error
    # The annotation does not know of output_loading_info.
    model, loading = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    if loading["missing_keys"]:
        names = ", ".join(sorted(loading["missing_keys"]))
        raise Stop(
            ExitCode.CONFIG,
            f"model.path: {settings.path} lacks weights that a causal language model needs: "
            f"{names[:MESSAGE_LENGTH]}",
        )
    return model


@contextmanager
def _explaining(settings: ModelSettings) -> Iterator[None]:
    """Turn what transformers raises about a model into words that name the field."""
    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).partition("\n")[0][:MESSAGE_LENGTH]
        raise Stop(
            ExitCode.CONFIG,
            f"model.path: {settings.path} cannot be used: {reason}\n{GIVE}",
        ) from error


def _take_dropouts(config: PretrainedConfig) -> dict[str, float]:
    """Set every dropout rate to 0, for log-probs that can be repeated; returns what they were."""
    text_config = config.get_text_config()
    rates = {
        name: value
        for name, value in vars(text_config).items()
        if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool)
    }
    for name in rates:
        setattr(text_config, name, 0.0)
    return rates


def _set_mode(model: PreTrainedModel, gradient_checkpointing: bool | None) -> None:
    if gradient_checkpointing is None:
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        gradient_checkpointing = num_parameters > CHECKPOINTING_FROM_NUM_PARAMETERS
    # Checkpointing works in train mode only; all that mode changes else is dropout, which is 0.
    model.train(gradient_checkpointing)
    if gradient_checkpointing:
        try:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise Stop(
                ExitCode.CONFIG, f"model.gradient_checkpointing: {error}: set it to false"
            ) from error


def _check_published_names(model: PreTrainedModel) -> None:
    """Raise Stop for a model whose checkpoint is a conversion of its tensors, as fused experts."""
    shapes = {name: tensor.to("meta") for name, tensor in published_tensors(model).items()}
    changed = revert_weight_conversion(model, shapes).keys() ^ shapes.keys()
    if changed:
        raise Stop(
            ExitCode.CONFIG,
            f"model.path: {type(model).__name__} keeps tensors in memory under other names than "
            f"in its checkpoint ({sorted(changed)[0]} and others), and such weights cannot be "
            "published yet: use a model without fused experts",
        )
