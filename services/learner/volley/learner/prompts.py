"""Prompt number n: which row of the data it is, and its tokens.

The data is JSONL; a row has `prompt` (text, or chat messages) and any other columns, which the
rewards receive. Every pass over the data has its own seeded order, so n names a row for ever.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from volley.telemetry.stops import ExitCode, Stop

Message = dict[str, str]
Tokenise = Callable[[Sequence[str | list[Message]]], list[list[int]]]
"""Prompts in, their token ids out; chat messages go through the model's template."""

ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row of the data, ready to be sampled from."""

    prompt: str | list[Message]
    prompt_ids: tuple[int, ...]
    columns: dict[str, object]


class Prompts:
    """All prompts of a data file, by number."""

    def __init__(self, rows: Sequence[Prompt], seed: int) -> None:
        self._rows = rows
        self._seed = seed
        # Numbers in flight span two passes at most; a third is kept for small data files.
        self._order = lru_cache(maxsize=3)(self._order_of)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Prompt:
        """The prompt that `number` names; numbers go on for ever, one pass after the other."""
        data_pass, position = divmod(number, len(self._rows))
        return self._rows[self._order(data_pass)[position]]

    def _order_of(self, data_pass: int) -> list[int]:
        rows = range(len(self._rows))
        return random.Random(f"{self._seed}/{data_pass}").sample(rows, len(rows))


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the data file that is a prompt."""

    place: str
    """file:line, for messages."""
    prompt: str | list[Message]
    columns: dict[str, object]


def read_rows(data: Path, key: str = "data.train") -> list[Row]:
    """The rows of the JSONL file under `key`; raises Stop naming the line of what is wrong."""
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Stop(
            ExitCode.CONFIG,
            f"{key}: cannot read {data}: {error.strerror}: name a JSONL file, by its path from the "
            "config file",
        ) from error
    except UnicodeDecodeError as error:
        raise Stop(
            ExitCode.CONFIG, f"{key}: cannot read {data}: {error}: save it as UTF-8"
        ) from error
    rows = [
        _read_row(f"{data}:{index}", line)
        for index, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rows:
        raise Stop(ExitCode.CONFIG, f"{key}: {data} is empty: give one JSON object a line")
    return rows


def tokenise_rows(
    rows: Sequence[Row], tokenise: Tokenise, max_prompt_length: int, seed: int
) -> Prompts:
    """The prompts of the rows; raises Stop naming the line of one that does not fit.

    `max_prompt_length` is what the context leaves beside max_completion_length, in tokens.
    """
    if max_prompt_length < 1:
        raise Stop(
            ExitCode.CONFIG,
            "sampling.max_completion_length leaves no room for a prompt in the model's context: "
            f"lower it by more than {-max_prompt_length}",
        )
    prompts: list[Prompt] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        ids = tokenise([row.prompt for row in some])
        prompts += [
            Prompt(row.prompt, _checked(row, prompt_ids, max_prompt_length), row.columns)
            for row, prompt_ids in zip(some, ids, strict=True)
        ]
    return Prompts(prompts, seed)


def _read_row(place: str, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise Stop(
            ExitCode.CONFIG, f"{place}: not JSON: {error}: write one object a line"
        ) from error
    if not isinstance(row, dict):
        raise Stop(ExitCode.CONFIG, f'{place}: not an object: write {{"prompt": ...}}')
    if "prompt" not in row:
        columns = ", ".join(row) or "none"
        raise Stop(
            ExitCode.CONFIG,
            f"{place}: column 'prompt' is missing (columns here: {columns}): give every line one",
        )
    prompt = row.pop("prompt")
    if not (isinstance(prompt, str) or _is_chat(prompt)) or not prompt:
        raise Stop(
            ExitCode.CONFIG,
            f"{place}: 'prompt' must be text or a list of messages, each with text in 'role' and "
            "'content'",
        )
    return Row(place, prompt, row)


def _is_chat(prompt: object) -> bool:
    return isinstance(prompt, list) and all(
        isinstance(message, dict)
        and {"role", "content"} <= message.keys()
        and all(isinstance(value, str) for value in message.values())
        for message in prompt
    )


def _checked(row: Row, prompt_ids: list[int], max_prompt_length: int) -> tuple[int, ...]:
    if not prompt_ids:
        raise Stop(ExitCode.CONFIG, f"{row.place}: the prompt has no tokens")
    if len(prompt_ids) > max_prompt_length:
        raise Stop(
            ExitCode.CONFIG,
            f"{row.place}: the prompt has {len(prompt_ids)} tokens, the model's context leaves "
            f"{max_prompt_length} beside sampling.max_completion_length: shorten the prompt or "
            "lower max_completion_length",
        )
    return tuple(prompt_ids)
