"""Types whose fields explain themselves to whoever reads the learner's OpenAPI document."""


class Documented:
    """The docstrings under a dataclass's fields are their descriptions, for pydantic as well."""

    __slots__ = ()
    __pydantic_config__ = {"use_attribute_docstrings": True}  # noqa: RUF012 (read by pydantic)
