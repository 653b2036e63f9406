"""A learner's real API on a real socket, without a loop behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.reports import REPORT
from volley.learner.api import ApiServer, create_app
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import SCHEMA_VERSION
from volley.schemas.run_spec import RewardLimits, RunSpec, SamplingSpec

TOKEN = "a-secret-token"
SPEC = RunSpec(
    schema_version=SCHEMA_VERSION,
    run="r",
    model_files=(),
    dtype="float32",
    max_context_length=64,
    vocab_size=64,
    sampling=SamplingSpec(2, 1.0, 8, (1,)),
    rewards=(),
    reward_limits=RewardLimits(60.0, 2**30, 1, None),
    environment=None,
    code_folder="",
    redis_url="redis://:hidden@127.0.0.1:1",
    lease_s=1.0,
    max_staleness=1,
    max_body_bytes=1024,
)


@contextmanager
def serving(store: WeightStore, port: int = 0) -> Iterator[str]:
    """The URL of an API over `store` that knows TOKEN, SPEC and REPORT."""
    server = ApiServer(create_app(store, SPEC, lambda: REPORT, TOKEN), "127.0.0.1", port)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
