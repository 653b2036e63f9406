"""What the search demo starts from: questions, a corpus, a model after a cold start, a config.

Prompt `q: food of trm?`, answer `wia`, and the passage `food trm: wia` says so. The facts are
made up, so nothing but the corpus can tell them. A tenth of the entities is for the held-out
questions alone: whatever a model may remember of its training, these it has to look up.

    corpus.jsonl            every fact as a passage, for the environment `search`

What else is in the folder: task_folder.py. A quarter of the demonstrations search before they
answer, the others answer at once, and all are right: that a guess is worth less than a search is
left for GRPO to find out.
"""

import random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from volley.learner.task_folder import Engine, config_of, write_rows, write_task

RELATIONS = ("capital", "food", "river")
NUM_ENTITIES = 4_000
NUM_HELD_OUT_ENTITIES = NUM_ENTITIES // 10
NUM_HELD_OUT = 300
NUM_DEMONSTRATIONS = 3_000
NUM_SEARCHING = NUM_DEMONSTRATIONS // 4
COLD_START_STEPS = 240

TASK = """\
[data]
train = "train.jsonl"         # {"prompt": "q: food of trm?", "answer": "wia"}
[sampling]
num_generations = 8
temperature = 1.0
max_completion_length = 80    # insertions included
[environment]
name = "search"               # <search>...</search> is answered with <information>...</information>
max_turns = 3
[environment.options]
corpus = "corpus.jsonl"       # {"text": "food trm: wia"}
top_k = 1
max_searches = 2
[reward]
functions = ["answer_match"]  # 1 where the last <answer>...</answer> is the answer, else 0
[queue]
max_staleness = 4             # several turns may take longer than a few steps
"""

EXAMPLE = """
Example:

python -m volley.learner.search_task task/ --steps 80
"""

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Fact:
    """What is to be known about an entity."""

    relation: str
    entity: str
    answer: str

    @property
    def prompt(self) -> str:
        return f"q: {self.relation} of {self.entity}?"

    @property
    def query(self) -> str:
        return f"{self.relation} {self.entity}"

    @property
    def passage(self) -> str:
        return f"{self.query}: {self.answer}"


def search_task(
    folder: Annotated[Path, typer.Argument(help="Where to write it all.")],
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps of the run.")] = 80,
    cold_start_steps: Annotated[
        int, typer.Option(min=1, help="Batches of demonstrations before it.")
    ] = COLD_START_STEPS,
    engine: Annotated[Engine, typer.Option(help="Of `volley run`'s workers.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the data, the model and the run.")] = 0,
) -> None:
    """Write data, model and config of the search demo."""
    write_data(folder, seed)
    config = config_of("search", TASK, steps, engine, seed)
    write_task(folder, config, cold_start_steps, seed)


def write_data(folder: Path, seed: int) -> None:
    """Write the corpus and the three data files; the held-out ones share no entity with others."""
    randomness = random.Random(seed)
    facts = make_facts(randomness)
    num_kept = NUM_HELD_OUT_ENTITIES * len(RELATIONS)
    kept, told = facts[:num_kept], facts[num_kept:]
    shown = randomness.sample(told, NUM_DEMONSTRATIONS)
    write_rows(
        folder,
        {
            "corpus": ({"text": fact.passage} for fact in facts),
            "held_out": map(question, randomness.sample(kept, NUM_HELD_OUT)),
            "demonstrations": [
                *map(searching, shown[:NUM_SEARCHING]),
                *map(answering_at_once, shown[NUM_SEARCHING:]),
            ],
            "train": map(question, told),
        },
    )


def make_facts(randomness: random.Random) -> list[Fact]:
    """Three facts for each entity, one entity after the other.

    No entity is an answer: a search for it finds its own passages alone.
    """
    words = ["".join(letters) for letters in product(string.ascii_lowercase, repeat=3)]
    randomness.shuffle(words)
    entities, answers = words[:NUM_ENTITIES], words[NUM_ENTITIES:]
    return [
        Fact(relation, entity, randomness.choice(answers))
        for entity in entities
        for relation in RELATIONS
    ]


def question(fact: Fact) -> Row:
    return {"prompt": fact.prompt, "answer": fact.answer}


def searching(fact: Fact) -> Row:
    """A demonstration of what is to be learnt."""
    completion = [
        {"text": f"<search>{fact.query}</search>"},
        {"inserted": f"<information>{fact.passage}</information>"},
        {"text": f"<answer>{fact.answer}</answer>"},
    ]
    return {"prompt": fact.prompt, "completion": completion}


def answering_at_once(fact: Fact) -> Row:
    """A demonstration of what nobody can do who has not learnt the fact by heart."""
    return {"prompt": fact.prompt, "completion": f"<answer>{fact.answer}</answer>"}


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLE)(search_task)
    app()
