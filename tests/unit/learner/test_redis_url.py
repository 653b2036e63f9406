"""Where Redis is, and where its password is kept."""

import pytest

from volley.learner.redis_url import read_redis_url
from volley.learner.settings import QueueSettings
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_client import connect

NOWHERE = QueueSettings()
PASSWORD = "p/a:s@s#w?r%d \u00fc"


@pytest.fixture
def password_file(tmp_path):
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    return str(file)


def test_the_variable_beats_the_config_and_neither_is_none():
    queue = QueueSettings(redis_url="redis://config:1")
    assert read_redis_url(queue, {}) == "redis://config:1"
    assert read_redis_url(queue, {"VOLLEY_REDIS_URL": "redis://env:2"}) == "redis://env:2"
    assert read_redis_url(NOWHERE, {}) is None


@pytest.mark.parametrize(
    ("url", "username"), [("redis://h:7/2", None), ("rediss://someone@h:7/2", "someone")]
)
def test_the_password_of_a_file_arrives_as_it_is_however_odd(password_file, url, username):
    environment = {"VOLLEY_REDIS_PASSWORD_FILE": password_file}
    with_password = read_redis_url(QueueSettings(redis_url=url), environment)
    assert with_password is not None
    options = connect(with_password).get_connection_kwargs()
    assert options["password"] == PASSWORD
    assert (options["host"], options["port"], options["db"]) == ("h", 7, 2)
    assert options.get("username") == username
    assert read_redis_url(NOWHERE, {"VOLLEY_REDIS_URL": url, **environment}) == with_password


def test_a_password_given_twice_is_refused_without_repeating_either(password_file):
    environment = {
        "VOLLEY_REDIS_URL": "redis://:first@h:7",
        "VOLLEY_REDIS_PASSWORD_FILE": password_file,
    }
    with pytest.raises(Stop, match="remove one of them") as stop:
        read_redis_url(NOWHERE, environment)
    assert stop.value.code is ExitCode.CONFIG
    assert "first" not in stop.value.message
    assert PASSWORD not in stop.value.message


def test_a_password_without_an_address_is_refused(password_file):
    with pytest.raises(Stop, match=r"VOLLEY_REDIS_URL or queue\.redis_url"):
        read_redis_url(NOWHERE, {"VOLLEY_REDIS_PASSWORD_FILE": password_file})


@pytest.mark.parametrize(
    ("content", "words"),
    [(b" \n", "is empty"), (None, "cannot read"), (b"hidden\xff", "cannot read .*UTF-8")],
)
def test_a_file_that_holds_no_password_is_named(tmp_path, content, words):
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    environment = {
        "VOLLEY_REDIS_URL": "redis://h:7",
        "VOLLEY_REDIS_PASSWORD_FILE": str(file),
    }
    with pytest.raises(Stop, match=f"VOLLEY_REDIS_PASSWORD_FILE: .*{words}") as stop:
        read_redis_url(NOWHERE, environment)
    assert str(file) in stop.value.message
    assert "hidden" not in stop.value.message


def test_an_address_that_cannot_be_read_is_not_repeated(password_file):
    environment = {
        "VOLLEY_REDIS_URL": "redis://:secret@[h:7",
        "VOLLEY_REDIS_PASSWORD_FILE": password_file,
    }
    with pytest.raises(Stop, match="redis://host:port") as stop:
        read_redis_url(NOWHERE, environment)
    assert "secret" not in stop.value.message
