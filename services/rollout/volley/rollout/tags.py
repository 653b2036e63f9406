"""Text between tags: what a model says to others, and what others say to it."""

import re
from collections.abc import Iterable


def last_content(text: str, tag: str) -> str | None:
    """What stands in the last `<tag>...</tag>`, None without one."""
    contents: list[str] = re.findall(
        rf"<{tag}>((?:(?!</?{tag}>).)*)</{tag}>", text, flags=re.DOTALL
    )
    return contents[-1] if contents else None


def escape_tags(text: str, tags: Iterable[str]) -> str:
    """The text without any of these tags, opening or closing: `</tag>` becomes `&lt;/tag>`."""
    return re.sub(rf"<(?=\s*/?\s*(?:{'|'.join(tags)})\s*>)", "&lt;", text, flags=re.IGNORECASE)
