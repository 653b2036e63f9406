"""The model that is trained, and its tokenizer: everything the learner asks of transformers.

Axes: B sequences, L tokens, T the last columns of L that cover every completion (see batching),
N of them at a time, V vocabulary.
"""

import copy
import inspect
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.checkpoint import checkpoint
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

from volley.learner.batching import MicroBatch
from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop

Message = dict[str, str]

CHECKPOINTING_FROM_NUM_PARAMETERS = 1_000_000_000
# Of models that name no limit.
UNLIMITED_CONTEXT_LENGTH = 2**31 - 1
# Float32 logits that exist at once, 256 MiB: a micro-batch of a large vocabulary would be 10 GB.
LOGITS_AT_ONCE = 2**26
MESSAGE_LENGTH = 300


@dataclass(frozen=True, slots=True, eq=False)
class LogProbs:
    """What the policy says now about the target tokens of a micro-batch."""

    policy_logprobs_BT: Tensor
    """Nats at the sampling temperature; with gradient unless made under no_grad."""
    entropy_BT: Tensor
    """Nats, of the distribution each token was drawn from; never with gradient."""


class Policy:
    """A causal language model on its device, with its tokenizer."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dropouts: Mapping[str, float],
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._dropouts = dropouts
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        _check_published_names(model)

    @classmethod
    def load(cls, settings: ModelSettings, device: str) -> "Policy":
        """The model at `settings.path`, on `device` or, if that is `auto`, where it runs best."""
        disable_progress_bar()
        if settings.path.startswith(("/", ".", "~")) and not Path(settings.path).is_dir():
            raise Stop(ExitCode.CONFIG, f"model.path: there is no folder {settings.path}")
        with _explaining(settings):
            config = AutoConfig.from_pretrained(settings.path, revision=settings.revision)
            tokenizer = _load_tokenizer(settings)
            dropouts = _take_dropouts(config)
            model = _load_model(settings, config)
        torch.nn.Module.to(model, resolve_device(device))
        _set_mode(model, settings.gradient_checkpointing)
        return cls(model, tokenizer, dropouts)

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: every token id is below it."""
        weight = self._model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.shape[0]

    @property
    def context_length(self) -> int:
        """Prompt and completion together, in tokens, at most."""
        config = self._model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or UNLIMITED_CONTEXT_LENGTH

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """All parameters, tied ones once."""
        return self._model.parameters()

    def stop_token_ids(self, extra: Sequence[int] = ()) -> tuple[int, ...]:
        """Every id that ends a completion, sorted: the model's, the tokenizer's and `extra`."""
        configs = (self._model.generation_config, self._model.config, self._tokenizer)
        ids: set[int] = set(extra)
        for config in configs:
            found = getattr(config, "eos_token_id", None)
            ids.update(found if isinstance(found, list) else [] if found is None else [found])
        return tuple(sorted(ids))

    def tokenise(self, prompts: Sequence[str | list[Message]]) -> list[list[int]]:
        """Token ids of prompts; chat messages go through the tokenizer's template."""
        return [self._tokenise(prompt) for prompt in prompts]

    def tokenise_answer(self, text: str) -> list[int]:
        """Token ids of what should follow a prompt, the end of sequence included."""
        end: int | None = self._tokenizer.eos_token_id
        if end is None:
            raise Stop(
                ExitCode.CONFIG,
                "model.path: the tokenizer has no end-of-sequence token, so answers cannot end: "
                "set its eos_token",
            )
        return [*self._tokenizer(text, add_special_tokens=False)["input_ids"], end]

    def recompute_log_probs(self, micro_batch: MicroBatch, temperature: float) -> LogProbs:
        """Log-probs and entropy of all target tokens, in one forward.

        Float32 from the logits on: logits / temperature, then log-softmax, a few rows at a time.
        Where the mask is False the values are finite and mean nothing.
        """
        targets_BT = micro_batch.targets_BT
        logits_BTV = self._logits(micro_batch.input_ids_BL, targets_BT.shape[1])
        num_rows = max(1, LOGITS_AT_ONCE // logits_BTV.shape[-1])
        # Only split's backward writes the gradient of all logits once; slices would do it each.
        chunks = zip(
            logits_BTV.flatten(0, 1).split(num_rows),
            targets_BT.flatten().split(num_rows),
            strict=True,
        )
        pairs = [
            checkpoint(
                _log_probs_and_entropy,
                logits_NV,
                targets_N,
                temperature,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for logits_NV, targets_N in chunks
        ]
        logprobs, entropies = zip(*pairs, strict=True)
        return LogProbs(
            torch.cat(logprobs).view_as(targets_BT), torch.cat(entropies).view_as(targets_BT)
        )

    def published_tensors(self) -> dict[str, Tensor]:
        """The tensors of the forward under the names `save_pretrained` writes, tied ones once."""
        return {name: tensor.contiguous() for name, tensor in _published(self._model).items()}

    def save_pretrained(self, folder: Path) -> None:
        """Write a Hugging Face folder: weights, configuration and tokenizer."""
        self._model.save_pretrained(folder)
        self._save_without_weights(folder)

    def model_files(self) -> dict[str, bytes]:
        """Content of the files that make the model and its tokenizer, weights apart, by name."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._save_without_weights(folder)
            return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def _save_without_weights(self, folder: Path) -> None:
        config = copy.deepcopy(self._model.config)
        for name, rate in self._dropouts.items():
            setattr(config.get_text_config(), name, rate)
        config.save_pretrained(folder)
        if self._model.generation_config is not None:
            self._model.generation_config.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _logits(self, input_ids_BL: Tensor, num_targets: int) -> Tensor:
        """Logits for the last `num_targets` tokens; the last token itself predicts nothing."""
        keep = {"logits_to_keep": num_targets} if self._takes_logits_to_keep else {}
        output = self._model(input_ids=input_ids_BL[:, :-1], use_cache=False, **keep)
        logits: Tensor = output.logits[:, -num_targets:]
        return logits

    def _tokenise(self, prompt: str | list[Message]) -> list[int]:
        if isinstance(prompt, str):
            return list(self._tokenizer(prompt)["input_ids"])
        if self._tokenizer.chat_template is None:
            raise Stop(
                ExitCode.CONFIG,
                "data: a prompt is a list of chat messages, and the tokenizer has no chat "
                "template: give prompts as text, or use an instruction-tuned model",
            )
        return list(
            self._tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=False
            )
        )


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
            ExitCode.CONFIG, f"device {name} cannot be used: {reason}: use cpu or auto"
        ) from error
    return device


def _log_probs_and_entropy(
    logits_NV: Tensor, targets_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logprobs_NV = torch.log_softmax(logits_NV.float() / temperature, dim=-1)
    logprobs_N = logprobs_NV.gather(-1, targets_N[:, None]).squeeze(-1)
    entropy_N = torch.special.entr(logprobs_NV.detach().exp()).sum(-1)
    return logprobs_N, entropy_N


def _load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.path, revision=settings.revision)
    except ValueError as error:
        raise _no_tokenizer(settings.path) from error
    # Without tokenizer files transformers may make one up, of special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _no_tokenizer(settings.path)
    return tokenizer


def _no_tokenizer(path: str) -> Stop:
    return Stop(
        ExitCode.CONFIG,
        f"model.path: {path} has no tokenizer: save the model's there (save_pretrained)",
    )


def _load_model(settings: ModelSettings, config: PretrainedConfig) -> PreTrainedModel:
    loaded = AutoModelForCausalLM.from_pretrained(
        settings.path,
        revision=settings.revision,
        config=config,
        dtype=getattr(torch, settings.dtype),
        attn_implementation=settings.attn_implementation,
        output_loading_info=True,
    )
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
            f"model.path: {settings.path} cannot be used: {reason}\n"
            "Give the folder of a causal language model with its tokenizer, as save_pretrained "
            "writes it, or a model id that this machine can fetch.",
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


def _published(model: PreTrainedModel) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in model.all_tied_weights_keys
    }


def _check_published_names(model: PreTrainedModel) -> None:
    """Raise Stop for a model whose checkpoint is a conversion of its tensors, as fused experts."""
    shapes = {name: tensor.to("meta") for name, tensor in _published(model).items()}
    changed = revert_weight_conversion(model, shapes).keys() ^ shapes.keys()
    if changed:
        raise Stop(
            ExitCode.CONFIG,
            f"model.path: {type(model).__name__} keeps tensors in memory under other names than "
            f"in its checkpoint ({sorted(changed)[0]} and others), and such weights cannot be "
            "published yet: use a model without fused experts",
        )
