"""A version that came as adapters: the base of the run, kept here, and their changes added in."""

from volley.rollout.model_tensors import tensors_in
from volley.schemas.run_spec import Blob
from volley.transport.learner_client import LearnerClient
from volley.transport.low_rank import add_change, unpack_changes
from volley.transport.tensors import InvalidTensors


class Base:
    """The tensors that adapters are added to, downloaded once and then copied."""

    def __init__(self, client: LearnerClient) -> None:
        self._client = client
        self._blob: Blob | None = None
        self._content = bytearray()

    def write_changed(self, base: Blob, adapters: Blob, into: bytearray) -> None:
        """Fill `into`, which has the base's length, with its tensors as the adapters change them.

        Raises InvalidTensors where they do not fit it.
        """
        self._fetch(base)
        content = bytearray(adapters.num_bytes)
        self._client.fetch_blob(adapters, content)
        into[:] = self._content
        tensors = tensors_in(into)
        for name, change in unpack_changes(tensors_in(content)).items():
            if name not in tensors:
                raise InvalidTensors(f"a change of {name}, which the base does not have")
            add_change(tensors[name], change)

    def forget(self) -> None:
        """Download it again the next time."""
        self._blob = None

    def _fetch(self, base: Blob) -> None:
        if base == self._blob:
            return
        self._blob, self._content = None, bytearray(base.num_bytes)
        self._client.fetch_blob(base, self._content)
        self._blob = base
