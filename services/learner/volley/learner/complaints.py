"""What is wrong with a config, in words that name the key and say what to do."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Sections = Mapping[str, Sequence[str]]
"""All sections that there are, each with its keys."""

KINDS = {
    "model_type": "a section: write its name in brackets, and its keys in the lines below",
    "tuple_type": "a list: write it in brackets",
}
"""What a value should be, where pydantic says it in words of Python."""


def explain(error: ValidationError, sections: Sections) -> str:
    """A line for everything that is wrong."""
    return "\n".join(f"  {_explain_one(detail, sections)}" for detail in error.errors())


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A question after the most similar of the names, shown with the prefix, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {prefix}{close[0]}?" if close else f": there is {', '.join(names)}"


def _explain_one(detail: ErrorDetails, sections: Sections) -> str:
    path = [str(part) for part in detail["loc"]]
    key, given = ".".join(path), detail["input"]
    if detail["type"] == "extra_forbidden":
        known = list(sections) if len(path) == 1 else sections[path[0]]
        return f"{key}: no such key{nearest(path[-1], known)}"
    if detail["type"] == "missing":
        return f"{key}: is needed"
    if detail["type"] in KINDS:
        return f"{key}: should be {KINDS[detail['type']]}"
    message = detail["msg"].removeprefix("Value error, ")
    if not key:
        return message
    shown = f" = {given!r}" if isinstance(given, str | int | float) else ""
    return f"{key}{shown}: {message.replace('Input should', 'should')}"
