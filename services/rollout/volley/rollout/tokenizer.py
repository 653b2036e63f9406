"""The model folder's tokenizer: text of a completion, and tokens of what is inserted into it."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from volley.telemetry.stops import ExitCode, Stop


class Tokenizer:
    """A tokenizer loaded from a folder."""

    def __init__(self, model_folder: Path) -> None:
        try:
            self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_folder)
            self._of_others: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                model_folder, split_special_tokens=True
            )
        except (OSError, ValueError) as error:
            raise Stop(ExitCode.CONFIG, f"{model_folder}: no usable tokenizer: {error}") from error
        self._kept_out = set(self._tokenizer.all_special_ids) - {self._tokenizer.unk_token_id}

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str), "one sequence has one text"
        return text

    def inserted_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of text from outside, which must not end a turn or begin another one.

        What is spelt like a special token is text like any other; tokens that are only added, as
        tags are, keep their ids.
        """
        token_ids = self._of_others(text, add_special_tokens=False)["input_ids"]
        # A vocabulary of whole words may hold them as words.
        return tuple(token_id for token_id in token_ids if token_id not in self._kept_out)

    def frame_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of what the chat template has written, special tokens among them."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
