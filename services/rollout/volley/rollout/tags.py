"""Text between tags: what a model says to others, and what others say to it."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

Tag = Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")]
"""As it stands between angle brackets."""


def contents(text: str, tag: str) -> list[str]:
    """What stands in each `<tag>...</tag>`."""
    return re.findall(rf"<{tag}>((?:(?!</?{tag}>).)*)</{tag}>", text, flags=re.DOTALL)


def last_content(text: str, tag: str) -> str | None:
    """What stands in the last `<tag>...</tag>`, None without one."""
    found = contents(text, tag)
    return found[-1] if found else None


def escape_tags(text: str, tags: Iterable[str]) -> str:
    """The text without any of these tags, opening or closing: `</tag>` becomes `&lt;/tag>`."""
    return re.sub(rf"<(?=\s*/?\s*(?:{'|'.join(tags)})\s*>)", "&lt;", text, flags=re.IGNORECASE)
