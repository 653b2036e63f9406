"""A calculator that the model writes into: behind every `=` stands the result, whoever wrote it."""

import ast
import operator

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


class Calculator:
    """One episode: `12+7=` is answered with `19`, and the model goes on behind it."""

    stop_strings = ("=",)

    def __init__(self, prompt, columns, max_value=10**9):
        self.metrics = {"calculations": 0, "errors": 0}
        self._max_value = max_value

    def respond(self, transcript):
        expression, asks, _ = transcript.turn.rpartition("=")
        if not asks:
            return None
        self.metrics["calculations"] += 1
        try:
            return str(self._evaluate(ast.parse(expression.lstrip(";"), mode="eval").body))
        except (SyntaxError, ValueError):
            self.metrics["errors"] += 1
            return "?"

    def _evaluate(self, node):
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            value = node.value
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            value = OPERATORS[type(node.op)](*map(self._evaluate, (node.left, node.right)))
        else:
            raise ValueError("neither a number nor a sum")
        if abs(value) > self._max_value:
            raise ValueError("too large")
        return value


def right(completions, answer, **columns):
    """1 where the last thing that was said is the answer."""
    pairs = zip(completions, answer, strict=True)
    return [float(text.rpartition(";")[2] == wanted) for text, wanted in pairs]
