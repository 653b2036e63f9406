"""Which weights are the head of a run: the answer of `GET /v1/weights`."""

from msgspec import Struct

from volley.schemas.groups import Version
from volley.schemas.run_spec import Blob


class Manifest(Struct, frozen=True):
    """The head: its name, the root over its tensors, and where its bytes are."""

    schema_version: int
    run: str
    version: Version
    root: str
    """BLAKE3 over name, dtype, shape and bytes of every tensor; see volley.transport.tensors."""
    anchor: Blob
    """All tensors, plain safetensors."""
    finished: bool = False
    """The run is over: nothing will be issued any more, workers may leave."""
