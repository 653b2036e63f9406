import pytest

from volley.learner.settings import ServerSettings
from volley.learner.token import read_admin_token, read_token
from volley.telemetry.stops import Stop

LOCAL = ServerSettings()
PUBLIC = ServerSettings(host="0.0.0.0")


def test_the_variable_beats_the_file_which_is_stripped(tmp_path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert read_token(LOCAL, {"VOLLEY_TOKEN_FILE": str(file)}) == "from-file"
    assert read_token(PUBLIC, {"VOLLEY_TOKEN": "x", "VOLLEY_TOKEN_FILE": str(file)}) == "x"


def test_on_loopback_a_token_is_made_up_each_time():
    assert len(read_token(LOCAL, {})) >= 32
    assert read_token(LOCAL, {}) != read_token(LOCAL, {})


def test_a_public_bind_without_a_token_is_refused():
    with pytest.raises(Stop, match="set VOLLEY_TOKEN"):
        read_token(PUBLIC, {})


def test_an_empty_or_missing_token_file_is_refused(tmp_path):
    (tmp_path / "empty").write_text("\n")
    for name, words in (("empty", "is empty"), ("absent", "cannot read")):
        with pytest.raises(Stop, match=words):
            read_token(PUBLIC, {"VOLLEY_TOKEN_FILE": str(tmp_path / name)})


def test_the_admin_token_is_given_like_the_other_one_or_made_up(tmp_path):
    file = tmp_path / "admin_token"
    file.write_text("from-file\n")
    assert read_admin_token({"VOLLEY_ADMIN_TOKEN_FILE": str(file)}) == "from-file"
    assert read_admin_token({"VOLLEY_ADMIN_TOKEN": "x"}) == "x"
    # Who has the token to look must not have guessed the one to command.
    assert read_admin_token({"VOLLEY_TOKEN": "x"}) not in ("x", read_admin_token({}))
