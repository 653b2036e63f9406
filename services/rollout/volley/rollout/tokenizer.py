"""The model folder's tokenizer: text of a completion, and prompts where no learner made them."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from volley.telemetry.stops import ExitCode, Stop


class Tokenizer:
    """A tokenizer loaded from a folder; safe to use from several threads."""

    def __init__(self, model_folder: Path) -> None:
        try:
            self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_folder)
        except (OSError, ValueError) as error:
            raise Stop(ExitCode.CONFIG, f"{model_folder}: no usable tokenizer: {error}") from error

    @property
    def eos_token_id(self) -> int | None:
        token_id = self._tokenizer.eos_token_id
        return token_id if isinstance(token_id, int) else None

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str), "one sequence has one text"
        return text

    def inserted_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of what an environment inserts, as it stands."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_ids(self, prompt: str | list[dict[str, str]]) -> tuple[int, ...]:
        """Token ids of text as it stands, or of chat messages through the model's template."""
        if isinstance(prompt, str):
            ids = self._tokenizer(prompt)["input_ids"]
        else:
            ids = self._tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        return tuple(ids)
