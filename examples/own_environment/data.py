"""Write sums of three numbers, demonstrations of how to work them, and a model that knows nothing.

python examples/own_environment/data.py
"""

import json
import random
from pathlib import Path

from volley.learner.tiny_model import save_model

FOLDER = Path(__file__).parent
NUM_DEMONSTRATIONS, NUM_TRAIN = 2_000, 4_000


def make_sum(randomness):
    """A sum of three numbers, its first part, the result of that, and the result."""
    a, b, c = (randomness.randint(10, 99) for _ in range(3))
    sign = randomness.choice("+-")
    total = a + b + c if sign == "+" else a + b - c
    return f"{a}+{b}{sign}{c}?", f"{a}+{b}", str(a + b), f"{a + b}{sign}{c}", str(total)


def demonstration(randomness):
    """The whole way on every other row, a guess on the others: GRPO is to prefer the way."""
    prompt, first, first_result, second, result = make_sum(randomness)
    if randomness.random() < 0.5:
        return {"prompt": prompt, "completion": ";" + str(randomness.randint(10, 297))}
    said = [{"text": f"{first}="}, {"inserted": first_result}, {"text": f";{second}="}]
    return {"prompt": prompt, "completion": [*said, {"inserted": result}, {"text": f";{result}"}]}


def question(randomness):
    prompt, *_, result = make_sum(randomness)
    return {"prompt": prompt, "answer": result}


def write(name, make_row, num_rows, seed):
    randomness = random.Random(seed)
    rows = (json.dumps(make_row(randomness)) + "\n" for _ in range(num_rows))
    (FOLDER / name).write_text("".join(rows))


if __name__ == "__main__":
    write("demonstrations.jsonl", demonstration, NUM_DEMONSTRATIONS, seed=1)
    write("train.jsonl", question, NUM_TRAIN, seed=2)
    save_model(FOLDER / "model", seed=0)
