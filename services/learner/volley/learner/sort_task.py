"""What the sort demo starts from: data, a tiny model after a cold start, and the run's config.

Prompt `sort qhzbtwea=`, answer `abehqtwz`. Every row is a different letter sequence, so nobody
meets a held-out prompt before the evaluation. What is in the folder: task_folder.py.
"""

import random
import string
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from volley.learner.task_folder import Engine, config_of, write_rows, write_task

NUM_LETTERS = 8
NUM_DEMONSTRATIONS = 2_000
NUM_TRAIN = 16_000
NUM_HELD_OUT = 500
COLD_START_STEPS = 64

TASK = """\
[data]
train = "train.jsonl"         # {"prompt": "sort qhzbtwea=", "answer": "abehqtwz"}
[sampling]
num_generations = 8
temperature = 1.0
max_completion_length = 10
[reward]
functions = ["exact_match"]   # 1 where the completion is the answer, else 0
[queue]
max_staleness = 2
"""

EXAMPLE = """
Example:

python -m volley.learner.sort_task task/ --steps 400
"""


def sort_task(
    folder: Annotated[Path, typer.Argument(help="Where to write it all.")],
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps of the run.")] = 400,
    cold_start_steps: Annotated[
        int, typer.Option(min=1, help="Batches of demonstrations before it.")
    ] = COLD_START_STEPS,
    engine: Annotated[Engine, typer.Option(help="Of `volley run`'s workers.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the data, the model and the run.")] = 0,
) -> None:
    """Write data, model and config of the sort demo."""
    write_data(folder, seed)
    config = config_of("sort", TASK, steps, engine, seed)
    write_task(folder, config, cold_start_steps, seed)


def write_data(folder: Path, seed: int) -> None:
    """Write the three data files, without a letter sequence in common."""
    letters = distinct_letters(random.Random(seed))
    write_rows(
        folder,
        {
            name: [row_of(one, answer_column) for one in islice(letters, num_rows)]
            for name, answer_column, num_rows in (
                ("held_out", "answer", NUM_HELD_OUT),
                ("demonstrations", "completion", NUM_DEMONSTRATIONS),
                ("train", "answer", NUM_TRAIN),
            )
        },
    )


def distinct_letters(randomness: random.Random) -> Iterator[str]:
    """Letters to sort, without a repetition inside a sequence or of a whole one."""
    seen: set[str] = set()
    while True:
        letters = "".join(randomness.sample(string.ascii_lowercase, NUM_LETTERS))
        if letters not in seen:
            seen.add(letters)
            yield letters


def row_of(letters: str, answer_column: str) -> dict[str, str]:
    """One line of a data file."""
    return {"prompt": f"sort {letters}=", answer_column: "".join(sorted(letters))}


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLE)(sort_task)
    app()
