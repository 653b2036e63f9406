"""The policy that is trained: log-probs of its tokens, its weights for others, its tokenizer.

Axes: B sequences, T tokens of a completion.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from jinja2 import TemplateError
from torch import Tensor

from volley.learner.batching import MicroBatch
from volley.learner.forward import Forward
from volley.learner.log_probs import LogProbs
from volley.learner.lora import changes
from volley.learner.pretrained import (
    Pretrained,
    load_pretrained,
    published_base,
    published_tensors,
    save_tensors,
)
from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.low_rank import pack_changes

Message = dict[str, str]
Schema = dict[str, object]
"""Of a tool, as transformers makes it from a function."""

# A stretch of its own costs each layer some twenty operations more. Measured on the smallest of
# models, on a CPU: as much as 45 tokens. An accelerator starts operations slower than it does them,
# so there it is taken for more; not measured.
MIN_TOKENS_SAVED_ON_CPU, MIN_TOKENS_SAVED = 64, 512

# Arguments of the chat template that are not for chat_template_kwargs.
SET_BY_US = ("tools", "add_generation_prompt", "tokenize", "return_dict", "conversation")

# Of models that name no limit.
UNLIMITED_CONTEXT_LENGTH = 2**31 - 1


class InvalidChat(Stop):
    """Messages that the tokenizer's chat template cannot write."""

    def __init__(self, reason: str) -> None:
        super().__init__(ExitCode.CONFIG, reason)


class Policy:
    """A causal language model on its device, with its tokenizer."""

    def __init__(
        self,
        pretrained: Pretrained,
        chat_kwargs: Mapping[str, object],
        *,
        torch_compile: bool = False,
    ) -> None:
        self._model = pretrained.model
        self._tokenizer = pretrained.tokenizer
        self._dropouts = pretrained.dropouts
        # Templates take what they like, which its annotation cannot know.
        apply: Callable[..., object] = self._tokenizer.apply_chat_template
        self._apply_chat_template = partial(apply, **chat_kwargs)
        self._forward = Forward(self._model, compiles=torch_compile)

    @classmethod
    def load(cls, settings: ModelSettings, device: str, tools: Sequence[Schema] = ()) -> "Policy":
        """The model at `settings.path`, on `device` or, if that is `auto`, an accelerator.

        Its chat template shows it the `tools`.
        """
        kwargs = settings.chat_template_kwargs
        for name in SET_BY_US:
            if name in kwargs:
                raise Stop(
                    ExitCode.CONFIG,
                    f"model.chat_template_kwargs: {name} is not yours to set: remove it",
                )
        return cls(
            load_pretrained(settings, device),
            {**kwargs, "tools": list(tools) or None},
            torch_compile=settings.torch_compile,
        )

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def share_from(self) -> int | None:
        """How many tokens a prompt must save to be shared in a micro-batch; None: never share."""
        if not self._forward.shares_prompts:
            return None
        return MIN_TOKENS_SAVED_ON_CPU if self.device.type == "cpu" else MIN_TOKENS_SAVED

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

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name, tied ones once: all parameters, or those of the adapters."""
        return {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }

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

    def tokenise_part(self, text: str) -> list[int]:
        """Token ids of a piece of a completion, as it stands."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_of(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of tokens, by itself as the model has it."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        assert isinstance(text, str), "one sequence has one text"
        return text

    @property
    def end_token_id(self) -> int:
        """What ends a completion that was not sampled; raises Stop where there is none."""
        end: int | None = self._tokenizer.eos_token_id
        if end is None:
            raise Stop(
                ExitCode.CONFIG,
                "model.path: the tokenizer has no end-of-sequence token, so answers cannot end: "
                "set its eos_token",
            )
        return end

    def render(self, messages: list[Message], *, add_generation_prompt: bool) -> str:
        """A chat as the tokenizer's template writes it; raises InvalidChat."""
        if self._tokenizer.chat_template is None:
            raise InvalidChat(
                "the tokenizer of model.path has no chat template, and there are chat messages: "
                "give prompts as text, or use an instruction-tuned model, or set "
                "model.chat_template"
            )
        try:
            text = self._apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        except TemplateError as error:
            raise InvalidChat(
                f"the chat template of model.path refuses these messages: {error}: write them as "
                "it expects, or set model.chat_template to another one"
            ) from error
        assert isinstance(text, str), "one chat has one text"
        return text

    def recompute_log_probs(self, micro_batch: MicroBatch, temperature: float) -> LogProbs:
        """What the policy says now about all trained tokens, in one forward; 0 elsewhere."""
        return self._forward.log_probs(micro_batch, temperature)

    def published_tensors(self) -> dict[str, Tensor]:
        """The model's tensors under the names `save_pretrained` writes, tied ones once."""
        return published_tensors(self._model)

    def base_tensors(self) -> dict[str, Tensor]:
        """The same without the adapters: what they change."""
        return published_base(self._model)

    def adapter_tensors(self) -> dict[str, Tensor]:
        """What is to be added to the base, packed."""
        return pack_changes(changes(self._model))

    def save_pretrained(self, folder: Path) -> None:
        """Write a Hugging Face folder: weights, configuration and tokenizer."""
        save_tensors(self.published_tensors(), folder)
        self._save_without_weights(folder)

    def save_adapters(self, folder: Path) -> None:
        """Write a folder as peft loads it beside the model that the adapters are of."""
        self._model.save_pretrained(folder)

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

    def _tokenise(self, prompt: str | list[Message]) -> list[int]:
        if isinstance(prompt, str):
            return list(self._tokenizer(prompt)["input_ids"])
        return self.tokenise_part(self.render(prompt, add_generation_prompt=True))
