"""Text of token ids with a run's tokenizer, without its model."""

from collections.abc import Sequence
from pathlib import Path

# AutoTokenizer would import torch and much more, which takes seconds; here ids are only read.
from transformers import PreTrainedTokenizerFast

from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop


class Detokenizer:
    """The tokenizer of a run: of the model that it has left, else of the one it began with."""

    def __init__(self, run_folder: Path, model: ModelSettings) -> None:
        trained = run_folder / "model"
        path = str(trained) if trained.is_dir() else model.path
        revision = model.revision or "main"
        try:
            self._tokenizer = PreTrainedTokenizerFast.from_pretrained(path, revision=revision)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise Stop(
                ExitCode.CONFIG,
                f"model.path: {path} has no tokenizer that can be read: {reason}: put the model "
                "back where it was when the run began",
            ) from error

    def text_of(self, token_ids: Sequence[int]) -> str:
        """With special tokens, as the model has them."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        assert isinstance(text, str), "one sequence has one text"
        return text
