"""A stranger's mistakes: each ends with one screen that names the fix, and exit code 2 or 3."""

import shutil
import socket
from pathlib import Path

import pytest

from tests.processes import CONFIG, learner, running, worker, write_run
from volley.telemetry.stops import ERROR_PREFIX, ExitCode

pytestmark = pytest.mark.e2e

END_S = 60.0
SCREEN_LINES = 24
UNREACHED = {"VOLLEY_REDIS_URL": "redis://127.0.0.1:1"}


def last_words(config: Path, *arguments: str, environment=UNREACHED) -> tuple[int, str]:
    """Exit code and error message of a learner that cannot start."""
    with running(
        "volley.learner", str(config), *arguments,
        log=config.parent / "learner.log", environment=environment,
    ) as learner:  # fmt: skip
        code = learner.process.wait(END_S)
    return code, message_in(config.parent / "learner.log")


def message_in(log: Path) -> str:
    written = log.read_text()
    assert "\nTraceback" not in written.partition(ERROR_PREFIX)[0], written
    message = written.rpartition(ERROR_PREFIX)[2]
    assert len(message.splitlines()) <= SCREEN_LINES
    return message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CONFIG + "[optin]\nx = 1\n", "did you mean optim?"),
        (CONFIG.replace("learning_rate", "learning_rat"), "did you mean learning_rate?"),
        (CONFIG.replace("num_generations = 4", "num_generations = 1"), "use at least 2"),
        (CONFIG.replace("num_generations = 4", "top_p = 0.9"), "remove top_p"),
        (CONFIG.replace("rewards:variety", "rewards:varieti"), "has no 'varieti'"),
        (CONFIG.replace("rewards:variety", "reward:variety"), "put the module beside the config"),
        (CONFIG.replace('"train.jsonl"', '"absent.jsonl"'), "cannot read"),
        (CONFIG.replace('"model"', '"./absent"'), "there is no folder"),
        (CONFIG.replace("= 8", "= 60"), "train.jsonl:1: the prompt has"),
    ],
)
def test_a_wrong_config_is_refused_with_the_fix(tmp_path, config, words):
    code, message = last_words(write_run(tmp_path, config))
    assert code == ExitCode.CONFIG
    assert words in message


def test_a_data_row_without_a_prompt_is_named(tmp_path):
    config = write_run(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"question": "x"}\n')
    code, message = last_words(config)
    assert code == ExitCode.CONFIG
    assert "train.jsonl:1: column 'prompt' is missing (columns here: question)" in message


def test_a_model_folder_without_a_tokenizer_is_named(tmp_path):
    config = write_run(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink()
    code, message = last_words(config)
    assert code == ExitCode.CONFIG
    assert "model.path" in message
    assert "tokenizer" in message


def test_a_learner_without_redis_says_where_it_looked(tmp_path):
    code, message = last_words(write_run(tmp_path))
    assert code == ExitCode.ENVIRONMENT
    assert "127.0.0.1:1" in message
    assert "is it running there?" in message


def test_a_learner_without_an_address_of_redis_says_where_to_give_it(tmp_path):
    code, message = last_words(write_run(tmp_path), environment={})
    assert code == ExitCode.CONFIG
    assert "VOLLEY_REDIS_URL" in message


def test_a_wrong_password_of_redis_is_said_without_showing_it(redis_url, tmp_path):
    address = redis_url.rpartition("@")[2]
    environment = {"VOLLEY_REDIS_URL": f"redis://:wrong-secret@{address}"}
    code, message = last_words(write_run(tmp_path), environment=environment)
    assert code == ExitCode.ENVIRONMENT
    assert "refused the password" in message
    assert "wrong-secret" not in (tmp_path / "learner.log").read_text()


def test_a_busy_port_is_said(redis_url, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, message = last_words(
            write_run(tmp_path),
            "--set",
            f"server.port={taken.getsockname()[1]}",
            environment={"VOLLEY_REDIS_URL": redis_url},
        )
    assert code == ExitCode.ENVIRONMENT
    assert "choose a free port" in message


def test_a_public_address_needs_a_token(tmp_path):
    code, message = last_words(
        write_run(tmp_path),
        "--set",
        "server.host=0.0.0.0",
        environment=UNREACHED | {"VOLLEY_TOKEN": ""},
    )
    assert code == ExitCode.CONFIG
    assert "set VOLLEY_TOKEN" in message


@pytest.mark.redis
@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ("def variety(prompts, completions, **columns):\n    raise KeyError('lost')\n", "lost"),
        ("def variety(prompts, completions, **columns):\n    return [1.0]\n", "4"),
        ("def variety(prompts, completions, **columns):\n    return ['a'] * 4\n", "'a'"),
    ],
)
def test_a_reward_that_never_works_stops_the_run_with_its_words(
    redis_url, tmp_path, rewards, words
):
    config = write_run(tmp_path, rewards=rewards)
    with learner(config, redis_url) as (process, _, folder), worker(folder, "w"):
        assert process.process.wait(END_S) == ExitCode.CONFIG
    message = message_in(tmp_path / "learner.log")
    assert "rewards:variety" in message
    assert words in message


@pytest.mark.redis
def test_a_worker_with_other_reward_code_is_refused(redis_url, tmp_path):
    config = write_run(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "rewards.py", other)
    (other / "rewards.py").write_text("def variety(**columns):\n    return []\n")
    with (
        learner(config, redis_url) as (_, client, _),
        running(
            "volley.rollout", "--learner", client.url, "--code", str(other),
            log=tmp_path / "w.log",
        ) as refused,
    ):  # fmt: skip
        assert refused.process.wait(END_S) == ExitCode.CONFIG
    assert "rewards.py" in message_in(tmp_path / "w.log")


@pytest.mark.redis
def test_a_worker_with_a_wrong_token_is_refused(redis_url, tmp_path):
    config = write_run(tmp_path)
    with (
        learner(config, redis_url) as (_, client, _),
        running(
            "volley.rollout", "--learner", client.url,
            log=tmp_path / "w.log", environment={"VOLLEY_TOKEN": "wrong"},
        ) as refused,
    ):  # fmt: skip
        assert refused.process.wait(END_S) == ExitCode.CONFIG
    assert "VOLLEY_TOKEN" in message_in(tmp_path / "w.log")
