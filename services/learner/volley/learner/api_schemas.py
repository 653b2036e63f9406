"""OpenAPI of what pydantic does not make: the messages that workers read."""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import RunSpec

Schema: TypeAlias = dict[str, object]
WIRE = (RunSpec, Manifest)
PLACE = "#/components/schemas/{name}"


def written_by_msgspec(kind: type[msgspec.Struct]) -> Schema:
    """The description of an answer that is one of WIRE."""
    schema = {"$ref": PLACE.format(name=kind.__name__)}
    return {"description": kind.__doc__, "content": {"application/json": {"schema": schema}}}


def example(of: object) -> Schema:
    """The description of an answer of which this is one."""
    content = {"example": msgspec.to_builtins(of, str_keys=True)}
    return {"description": type(of).__doc__, "content": {"application/json": content}}


def wire_schemas() -> Mapping[str, Schema]:
    """By name, the schemas of WIRE and of all that they consist of."""
    _, schemas = msgspec.json.schema_components(WIRE, schema_hook=_anything, ref_template=PLACE)
    return schemas


def _anything(kind: type) -> Schema:
    """Columns of the user's data, and options of the user's code."""
    assert kind is object, f"{kind} has no schema"
    return {"description": "Any JSON"}
