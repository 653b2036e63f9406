"""Write train.jsonl: small problems with exact answers.

python examples/maths/data.py
"""

import json
import random
from fractions import Fraction
from pathlib import Path

NUM_ROWS = 4_000
ASK = "Reason step by step, and put the final answer into \\boxed{}."


def latex(value):
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def equation(randomness):
    a, b, c = randomness.randint(2, 12), randomness.randint(1, 30), randomness.randint(1, 60)
    return f"Solve {a} x + {b} = {c} for x.", Fraction(c - b, a)


def fractions(randomness):
    a, b, c, d = (randomness.randint(2, 12) for _ in range(4))
    return f"What is {a}/{b} + {c}/{d}, in lowest terms?", Fraction(a, b) + Fraction(c, d)


def percentage(randomness):
    share, whole = randomness.choice((5, 12, 15, 25, 40, 65)), randomness.randint(20, 900)
    return f"What is {share} % of {whole}?", Fraction(share * whole, 100)


def row(randomness):
    problem, value = randomness.choice((equation, fractions, percentage))(randomness)
    prompt = [{"role": "user", "content": f"{problem} {ASK}"}]
    return {"prompt": prompt, "solution": f"${latex(value)}$"}


if __name__ == "__main__":
    randomness = random.Random(0)
    lines = (json.dumps(row(randomness)) + "\n" for _ in range(NUM_ROWS))
    Path(__file__).with_name("train.jsonl").write_text("".join(lines))
