"""A real server described, with full rights and with few."""

from contextlib import closing
from urllib.parse import urlsplit

import pytest

from volley.transport.redis_client import QueueMisconfigured, RedisClient
from volley.transport.server_facts import ServerFacts, describe_server

pytestmark = pytest.mark.redis


def test_a_server_is_described(redis_server):
    facts = describe_server(redis_server.url)
    port = urlsplit(redis_server.url).port
    assert facts == ServerFacts(
        address=f"127.0.0.1:{port}",
        version=facts.version,
        maxmemory_policy="noeviction",
        appendonly=True,
        appendfsync="always",
        asks_for_password=True,
    )
    assert facts.version[0].isdigit()


def test_a_server_that_hides_its_settings_is_described_without_them(redis_server):
    with closing(RedisClient(redis_server.url)) as client:
        client.commands.acl_setuser(
            "guest", enabled=True, passwords=["+secret"], commands=["+info", "+ping"]
        )
    port = urlsplit(redis_server.url).port
    facts = describe_server(f"redis://guest:secret@127.0.0.1:{port}/0")
    assert facts.appendfsync is None
    assert facts.appendonly


def test_a_user_that_needs_no_password_leaves_the_server_open(redis_server):
    with closing(RedisClient(redis_server.url)) as client:
        client.commands.config_set("requirepass", "")
    port = urlsplit(redis_server.url).port
    # Redis takes any password for a user that has none.
    assert not describe_server(f"redis://default:any@127.0.0.1:{port}/0").asks_for_password


def test_a_wrong_password_is_an_error(redis_server):
    port = urlsplit(redis_server.url).port
    with pytest.raises(QueueMisconfigured, match="refused the password"):
        describe_server(f"redis://:wrong@127.0.0.1:{port}/0")
