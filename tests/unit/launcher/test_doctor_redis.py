"""A real Redis, set up wrongly, and what is said about it."""

from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from volley.launcher.doctor_redis import binary_finding, judge_binary, server_findings
from volley.launcher.findings import Finding, Level
from volley.transport.redis_client import RedisClient

pytestmark = pytest.mark.redis


def by_subject(url: str) -> dict[str, Finding]:
    return {finding.subject: finding for finding in server_findings(url)}


@pytest.fixture
def client(redis_server) -> Iterator[RedisClient]:
    with closing(RedisClient(redis_server.url)) as client:
        yield client


def test_the_redis_that_volley_starts_is_well(redis_server):
    findings = server_findings(redis_server.url)
    assert [finding.level for finding in findings] == [Level.OK] * 4
    assert findings[2].found == "appendonly yes, appendfsync always"


def test_an_eviction_policy_that_deletes_is_bad(redis_server, client):
    client.commands.config_set("maxmemory-policy", "allkeys-lru")
    finding = by_subject(redis_server.url)["redis eviction"]
    assert finding.level is Level.BAD
    assert "allkeys-lru" in finding.found
    assert "maxmemory-policy noeviction" in str(finding.advice)


def test_a_redis_that_forgets_is_a_warning(redis_server, client):
    client.commands.config_set("appendfsync", "everysec")
    finding = by_subject(redis_server.url)["redis persistence"]
    assert (finding.level, "appendfsync always" in str(finding.advice)) == (Level.WARN, True)
    client.commands.config_set("appendonly", "no")
    finding = by_subject(redis_server.url)["redis persistence"]
    assert (finding.level, "appendonly yes" in str(finding.advice)) == (Level.WARN, True)


def test_a_redis_without_a_password_is_a_warning(redis_server, client):
    client.commands.config_set("requirepass", "")
    port = urlsplit(redis_server.url).port
    finding = by_subject(f"redis://127.0.0.1:{port}/0")["redis password"]
    assert finding.level is Level.WARN
    assert "requirepass" in str(finding.advice)


def test_a_redis_that_does_not_answer_or_refuses_is_bad(redis_server):
    port = urlsplit(redis_server.url).port
    (refused,) = server_findings(f"redis://:wrong@127.0.0.1:{port}/0")
    assert (refused.level, "refused the password" in refused.found) == (Level.BAD, True)
    redis_server.stop()
    (gone,) = server_findings(redis_server.url)
    assert gone.level is Level.BAD
    assert "cannot be reached" in gone.found
    assert "VOLLEY_REDIS_URL" in str(gone.advice)


def test_the_binary_that_is_found_is_told_with_its_version(redis_binary):
    finding = binary_finding(is_needed=True)
    assert redis_binary in finding.found
    assert "version" in finding.found


def test_a_missing_binary_is_bad_only_where_one_is_to_be_started(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    needed = binary_finding(is_needed=True)
    assert (needed.level, "apt install redis-server" in str(needed.advice)) == (Level.BAD, True)
    assert binary_finding(is_needed=False).level is Level.OK


def test_the_old_embedded_binary_is_a_warning():
    assert judge_binary("redis-server", "6.2.14").level is Level.WARN
    assert judge_binary("redis-server", "7.0.15").level is Level.OK
    assert judge_binary("valkey-server", "8.1.1").level is Level.OK
