"""The built-in reward `maths`; a reward process makes it from this file as from the user's code.

An answer such as 9**9**9**9 keeps the library from ever coming back, in ways that its own time
limits do not all cover; then the reward process is ended.
"""

from collections.abc import Sequence

try:
    from math_verify import parse, verify
except ImportError as error:
    raise ImportError(
        "the reward maths needs math-verify: pip install 'volley-rl[maths]'"
    ) from error

TIMEOUT_S = 3
"""For each parsing and each comparison; whatever takes longer counts as wrong."""


def maths(completions: list[str], solution: Sequence[object] | None = None) -> list[float | None]:
    """1 where the completion's last expression equals the solution's, None without a solution.

    A solution is a number, LaTeX, or text that holds it as a completion would.
    """
    if solution is None or solution[0] is None:
        return [None] * len(completions)
    text = str(solution[0])
    # LaTeX is only looked for where it is marked as such.
    wanted = parse(text, parsing_timeout=TIMEOUT_S) or parse(f"${text}$", parsing_timeout=TIMEOUT_S)
    if not wanted:
        return [None] * len(completions)
    return [
        float(
            verify(wanted, parse(completion, parsing_timeout=TIMEOUT_S), timeout_seconds=TIMEOUT_S)
        )
        for completion in completions
    ]
