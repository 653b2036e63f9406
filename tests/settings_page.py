"""The tables of docs/configuration.md, as the settings are; `make docs` writes them anew."""

from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from volley.learner.section import Section
from volley.learner.settings import Settings

PAGE = Path(__file__).parents[1] / "docs/configuration.md"
BEGINNING = "## Every key\n"


def page_with_tables(page: str) -> str:
    """The page with all that follows its last heading made anew."""
    written, _, _ = page.partition(BEGINNING)
    return "\n".join([written + BEGINNING, *map(_table, Settings.model_fields)])


def keys_of(name: str) -> dict[str, FieldInfo]:
    """Of a section; empty where there is none of that name."""
    if name not in Settings.model_fields:
        return {}
    kinds = _alternatives(Settings.model_fields[name])
    return next(kind for kind in kinds if issubclass(kind, Section)).model_fields


def _table(name: str) -> str:
    field = Settings.model_fields[name]
    rows = [_row(key, one) for key, one in keys_of(name).items()]
    optional = "" if field.is_required() or field.default is not None else ", if there is one"
    return "\n".join(
        [f"### [{name}]{optional}\n", "| key | default | |", "|---|---|---|", *rows, ""]
    )


def _row(key: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    choices = _choices(field)
    if len(choices) > 1 and choices[-1] not in meaning:
        meaning = f"{meaning} One of {', '.join(choices)}.".strip()
    return f"| `{key}` | {_default(field)} | {meaning} |".replace("||", "\\|\\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    match value:
        case None:
            return "left out"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"{value:,}" if value >= 10_000 else f"{value:g}"
        case tuple():
            return f"`{list(value)}`".replace("'", '"')
        case dict():
            return "`{}`"
    return f"`{value}`"


def _choices(field: FieldInfo) -> list[str]:
    """Of a key that takes one of some words."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]


def _alternatives(field: FieldInfo) -> list[type]:
    kinds = [field.annotation, *get_args(field.annotation)]
    return [kind for kind in kinds if isinstance(kind, type)]


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
