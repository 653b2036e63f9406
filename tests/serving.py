"""A learner's real API on a real socket, without a loop behind it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.reports import REPORT
from volley.learner.api import ApiServer, create_app
from volley.learner.control import Control
from volley.learner.served import Served
from volley.learner.token import Tokens
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import SCHEMA_VERSION
from volley.schemas.run_spec import RewardLimits, RunSpec, SamplingSpec
from volley.schemas.status import StatusReport

TOKEN = "a-secret-token"
ADMIN_TOKEN = "a-more-secret-token"
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


TOKENS = Tokens(reader=TOKEN, admin=ADMIN_TOKEN)


def served(
    folder: Path, store: WeightStore, report: Callable[[], StatusReport] = lambda: REPORT
) -> Served:
    """A learner over a run's folder and its weights that says SPEC."""
    return Served(folder, store, report, Control(threading.Event()), SPEC)


@contextmanager
def serving(store: WeightStore, port: int = 0) -> Iterator[str]:
    """The URL of an API over `store`, of a run without a past."""
    with serving_learner(served(Path(os.devnull), store), port) as url:
        yield url


@contextmanager
def serving_learner(learner: Served, port: int = 0) -> Iterator[str]:
    """The URL of an API over `learner` that knows TOKENS; streams of events end first."""
    server = ApiServer(create_app(learner, TOKENS), "127.0.0.1", port)
    server.start()
    try:
        yield server.url
    finally:
        if not learner.end.done():
            learner.end.set_result(None)
        server.stop()
