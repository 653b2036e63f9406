"""The reward functions that every worker brings.

    exact_match    the completion is `answer`, but for spaces around it
    answer_match   the last <answer>...</answer> is `answer`, normalised
    f1             words that it shares with `answer`, normalised
    format         searches, each with its information, then one answer, which is the end
    maths          the mathematics is that of `solution`: maths.py

answer_match, f1 and maths are None for a row without their column. For the first two `answer` may
be a list of texts, of which the best one counts; a completion without the tag has given no answer
and gets 0, for as a whole it also holds what was inserted into it.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from string import punctuation

from volley.rollout.rewards import Reward
from volley.rollout.tags import last_content
from volley.schemas.run_spec import BUILTIN_REWARDS

ARTICLES = {"a", "an", "the"}
TAG = re.compile(r"</?(?:search|information|answer)>")
A_SEARCH = ["<search>", "</search>", "<information>", "</information>"]
AN_ANSWER = ["<answer>", "</answer>"]


def exact_match(completions: list[str], answer: Sequence[object]) -> list[float]:
    """1 where the completion is the answer, but for spaces around it, else 0."""
    return [
        float(completion.strip() == str(wanted).strip())
        for completion, wanted in zip(completions, answer, strict=True)
    ]


def answer_match(
    completions: list[str], answer: Sequence[object] | None = None
) -> list[float | None]:
    """1 where the final answer has the words of the wanted one, in their order, else 0."""
    return _compare(completions, answer, lambda words, wanted: float(words == wanted))


def f1(completions: list[str], answer: Sequence[object] | None = None) -> list[float | None]:
    """The harmonic mean of precision and recall, over the words of the final answer."""
    return _compare(completions, answer, _f1_of)


def well_formed(completions: list[str]) -> list[float]:
    """1 where the default tags are there in their order and the answer's is the end, else 0."""
    return [float(_is_well_formed(completion)) for completion in completions]


def words_of(text: str) -> list[str]:
    """Words as SQuAD compares them: in lower case, without punctuation and articles."""
    plain = text.lower().translate(str.maketrans("", "", punctuation))
    return [word for word in plain.split() if word not in ARTICLES]


BUILTIN: Mapping[str, Reward] = {
    "exact_match": Reward("exact_match", exact_match),
    "answer_match": Reward("answer_match", answer_match),
    "f1": Reward("f1", f1),
    "format": Reward("format", well_formed),
}
"""They are ours and quick, so they need no process of their own."""
APART: Mapping[str, str] = {"maths": "volley.rollout.maths:maths"}
"""Ours too, but what they do with a completion may take for ever."""
assert (*BUILTIN, *APART) == BUILTIN_REWARDS


def _compare(
    completions: list[str],
    answer: Sequence[object] | None,
    compare: Callable[[list[str], list[str]], float],
) -> list[float | None]:
    if answer is None:
        return [None] * len(completions)
    return [
        _best(completion, wanted, compare)
        for completion, wanted in zip(completions, answer, strict=True)
    ]


def _best(
    completion: str, wanted: object, compare: Callable[[list[str], list[str]], float]
) -> float | None:
    if wanted is None:
        return None
    found = last_content(completion, "answer")
    if found is None:
        return 0.0
    candidates = wanted if isinstance(wanted, list) else [wanted]
    scores = (compare(words_of(found), words_of(str(candidate))) for candidate in candidates)
    return max(scores, default=None)


def _f1_of(words: list[str], wanted: list[str]) -> float:
    if not (words and wanted):
        return float(words == wanted)
    num_shared = (Counter(words) & Counter(wanted)).total()
    return 2 * num_shared / (len(words) + len(wanted))


def _is_well_formed(completion: str) -> bool:
    tags = TAG.findall(completion)
    num_searches = (len(tags) - len(AN_ANSWER)) // len(A_SEARCH)
    is_ordered = tags == A_SEARCH * num_searches + AN_ANSWER
    return is_ordered and completion.rstrip().endswith(AN_ANSWER[-1])
