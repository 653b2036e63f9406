"""The weights at hand, staged in the store: whole, or as adapters beside the base of the run."""

from functools import cached_property

from volley.learner.policy import Policy
from volley.learner.weight_store import WeightStore, root_of_tensors
from volley.schemas.groups import Version
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import Blob


class Publisher:
    """Stages the weights of one policy in one store."""

    def __init__(self, policy: Policy, store: WeightStore) -> None:
        self._policy = policy
        self._store = store

    def stage(self, version: Version) -> Manifest:
        """The weights at hand, ready to be announced as `version`."""
        tensors, adapters = self._policy.published_tensors(), self._policy.adapter_tensors()
        if not adapters:
            return self._store.stage(tensors, version)
        return self._store.stage_adapters(self._base, adapters, root_of_tensors(tensors), version)

    @cached_property
    def _base(self) -> Blob:
        return self._store.add_base(self._policy.base_tensors())
