"""The [environment] section: what answers the model between its turns."""

from pydantic import Field

from volley.learner.section import PositiveFloat, PositiveInt, Section


class EnvironmentSettings(Section):
    name: str | None = None
    """`module:Class` beside the config file, or the bare name of a built-in one; left out: an
    episode is a single turn."""
    max_turns: PositiveInt = 8
    """Times the model is asked; an episode that wants more is truncated."""
    timeout_s: PositiveFloat = 30.0
    """Seconds for one answer."""
    options: dict[str, object] = Field(default_factory=dict)
    """Keyword arguments of the class."""
