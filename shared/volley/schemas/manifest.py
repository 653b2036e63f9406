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
    """BLAKE3 over name, dtype, shape and bytes of every tensor, adapters added in; see
    volley.transport.tensors."""
    anchor: Blob
    """All tensors, plain safetensors; with adapters those that a run begins with, for all of it."""
    adapters: Blob | None = None
    """What is to be added to the anchor's tensors, plain safetensors; see transport.low_rank."""
    evaluate: bool = False
    """Workers are to answer the evaluation tasks of this version before they load another one."""
    finished: bool = False
    """The run is over: nothing will be issued any more, workers may leave."""

    @property
    def changing(self) -> Blob:
        """What is other bytes in every version: the adapters, or without any the anchor."""
        return self.adapters or self.anchor
