"""A stranger's mistakes: each ends with one screen that names what is wrong and the fix.

MISTAKES is the list, one entry a mistake: what was typed or written, and what the command says. The
tests below it need more than a folder: a Redis, a learner, a worker.
"""

import json
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.command_line import END_S, Command, Ended, under_way, volley
from tests.processes import CONFIG, TOKEN, learner_url, running, write_run
from tests.waiting import wait_until
from volley.telemetry.stops import ERROR_PREFIX, ExitCode

pytestmark = pytest.mark.e2e

SCREEN_LINES = 24
JOINING = {"VOLLEY_TOKEN": TOKEN}
FAR_FROM_REDIS = {**JOINING, "VOLLEY_REDIS_URL": "redis://127.0.0.1:1"}
GOOD_ROW = '{"prompt": "sort ba=>", "answer": "ab"}\n'
CHAT_ROW = '{"prompt": [{"role": "user", "content": "sort ba"}]}\n'
SPEECHLESS_ROW = '{"prompt": [{"role": "user", "text": "sort ba"}]}\n'


def config(old: str, new: str) -> dict[str, str]:
    """The config with something else in it."""
    assert old in CONFIG
    return {"config.toml": CONFIG.replace(old, new)}


def config_and(section: str) -> dict[str, str]:
    """The config with a section more."""
    return {"config.toml": f"{CONFIG}\n{section}\n"}


def data(rows: str) -> dict[str, str]:
    return {"train.jsonl": rows}


@dataclass(frozen=True, slots=True)
class Mistake:
    """What somebody did in the folder of a run that was fine, and what they are told."""

    does: Mapping[str, str | None]
    """Files that are written, or removed: {name: content}."""
    says: tuple[str, ...]
    """Where it is wrong, and what to do."""
    types: str = "learner config.toml"
    sets: dict[str, str] = field(default_factory=dict)
    """Variables."""
    code: ExitCode = ExitCode.CONFIG


MISTAKES = {
    # The config.
    "a key is misspelt": Mistake(
        config("learning_rate", "learning_rat"),
        ("config.toml", "optim.learning_rat: no such key", "did you mean learning_rate?"),
    ),
    "a key has its name from elsewhere": Mistake(
        config("learning_rate", "lr"),
        ("config.toml", "optim.lr: no such key", "there is groups_per_step", "learning_rate"),
    ),
    "a section is misspelt": Mistake(
        config("[optim]", "[optin]"),
        ("config.toml", "optin: no such key", "did you mean optim?"),
    ),
    "a section is missing": Mistake(
        config('[data]\ntrain = "train.jsonl"\n', ""), ("config.toml", "data: is needed")
    ),
    "a section is a value": Mistake(
        {"config.toml": 'data = "train.jsonl"\n[model]\npath = "model"'},
        ("config.toml", "data: should be a section", "in brackets"),
    ),
    "text has no quotes": Mistake(
        config('"float32"', "float32"), ("config.toml", "not TOML", "at line 6", '"quoted"')
    ),
    "a number is text": Mistake(
        config("steps = 3", 'steps = "many"'),
        ("config.toml", "run.steps = 'many'", "should be a valid integer"),
    ),
    "a number is too small": Mistake(
        config("steps = 3", "steps = 0"), ("run.steps = 0", "should be greater than 0")
    ),
    "a list has no brackets": Mistake(
        config('["rewards:variety"]', '"rewards:variety"'),
        ("reward.functions: should be a list", "in brackets"),
    ),
    "the dtype is none of ours": Mistake(
        config("float32", "float16"), ("model.dtype = 'float16'", "'float32' or 'bfloat16'")
    ),
    "a group of one": Mistake(
        config("num_generations = 4", "num_generations = 1"),
        ("num_generations = 1", "use at least 2"),
    ),
    "top_p is set": Mistake(
        config("num_generations = 4", "top_p = 0.9"), ("top_p = 0.9", "remove top_p")
    ),
    "no such loss": Mistake(
        config_and('[loss]\nloss_type = "ppo"'), ("loss_type = 'ppo'", "dapo, grpo", "choose one")
    ),
    "no such tracker": Mistake(
        config_and('[tracking]\nreport_to = ["mlflow"]'),
        ("tracking.report_to", "'mlflow'", "'tensorboard', 'wandb' or 'trackio'"),
    ),
    "the config is not there": Mistake(
        {}, ("sums.toml", "No such file", "give the path of a TOML file"), types="run sums.toml"
    ),
    "a variable is misspelt": Mistake(
        {},
        ("VOLLEY_OPTIM__LEARNINGRATE", "did you mean VOLLEY_OPTIM__LEARNING_RATE?"),
        sets={"VOLLEY_OPTIM__LEARNINGRATE": "1e-3"},
    ),
    "the variable of Redis is misspelt": Mistake(
        {}, ("VOLLEY_REDIS:", "did you mean VOLLEY_REDIS_URL?"), sets={"VOLLEY_REDIS": "redis://x"}
    ),
    "a setting has no value": Mistake(
        {},
        ("--set run.steps", "write it as section.key=value"),
        types="run config.toml --set run.steps",
    ),
    "a setting has no section": Mistake(
        {},
        ("--set steps=4", "did you mean run.steps?"),
        types="run config.toml --set steps=4",
    ),
    "a setting does not exist": Mistake(
        {},
        ("--set optim.lr=1", "no such setting", "learning_rate"),
        types="run config.toml --set optim.lr=1",
    ),
    # The data.
    "the data are not there": Mistake(
        config("train.jsonl", "data/train.jsonl"),
        ("data.train", "data/train.jsonl", "No such file", "by its path from the config file"),
    ),
    "the data are empty": Mistake(
        data("\n"), ("data.train", "train.jsonl is empty", "one JSON object a line")
    ),
    "a line is no JSON": Mistake(
        data(GOOD_ROW + "{'prompt': 'x'}\n"),
        ("train.jsonl:2", "not JSON", "write one object a line"),
    ),
    "the data are one list": Mistake(
        data(f"[\n{GOOD_ROW}]\n"), ("train.jsonl:1", "not JSON", "write one object a line")
    ),
    "a line is text alone": Mistake(
        data('"sort ba"\n'), ("train.jsonl:1", "not an object", 'write {"prompt": ...}')
    ),
    "the prompt has another name": Mistake(
        data('{"question": "x"}\n'),
        ("train.jsonl:1", "column 'prompt' is missing (columns here: question)", "give"),
    ),
    "the prompt is a number": Mistake(
        data('{"prompt": 17}\n'), ("train.jsonl:1", "'prompt' must be text or a list of messages")
    ),
    "a message has no content": Mistake(
        data(GOOD_ROW + SPEECHLESS_ROW), ("train.jsonl:2", "text in 'role' and 'content'")
    ),
    "a prompt does not fit": Mistake(
        data(GOOD_ROW + json.dumps({"prompt": "a" * 70})),
        ("train.jsonl:2", "70 tokens", "shorten the prompt or lower max_completion_length"),
    ),
    "no prompt can fit": Mistake(
        config("= 8", "= 640"),
        ("sampling.max_completion_length", "no room for a prompt", "lower it by more than 576"),
    ),
    "no demonstrations for a cold start": Mistake(
        config_and('[cold_start]\ndata = "shown.jsonl"'),
        ("cold_start.data", "shown.jsonl", "cannot read"),
        types="sft config.toml",
    ),
    "demonstrations without answers": Mistake(
        config_and('[cold_start]\ndata = "train.jsonl"'),
        ("train.jsonl:1", "column 'completion' is missing", "give 'prompt' and 'completion'"),
        types="sft config.toml",
    ),
    # The model.
    "the model is not there": Mistake(
        config('"model"', '"./absent"'), ("model.path", "no folder", "give the folder of a causal")
    ),
    "the folder holds no model": Mistake(
        config('"model"', '"."'), ("model.path", "model_type", "give the folder of a causal")
    ),
    "the model has no weights": Mistake(
        {"model/model.safetensors": None},
        ("model.path", "no file named model.safetensors", "give the folder of a causal"),
    ),
    "the model has no tokenizer": Mistake(
        {"model/tokenizer.json": None, "model/tokenizer_config.json": None},
        ("model.path", "has no tokenizer", "save_pretrained"),
    ),
    "a model that cannot chat is told to": Mistake(
        data(CHAT_ROW), ("model.path", "no chat template", "give prompts as text")
    ),
    "the chat template is broken": Mistake(
        data(CHAT_ROW)
        | config("[data]", 'chat_template = "chat.jinja"\n[data]')
        | {"chat.jinja": "{% for message in %}"},
        ("chat template", "Expected an expression", "set model.chat_template"),
    ),
    # The reward.
    "the reward's file is not there": Mistake(
        config("rewards:variety", "reward:variety"),
        ("reward.functions", "reward.py", "put the module beside the config file"),
    ),
    "the reward's function is misspelt": Mistake(
        config("rewards:variety", "rewards:varieti"),
        ("reward.functions", "rewards.py has no 'varieti'", "it has variety"),
    ),
    "the reward is named by its file": Mistake(
        config("rewards:variety", "rewards.py:variety"),
        ("reward.functions", "rewards.py:variety", "write it as rewards:variety"),
    ),
    "the reward is not Python": Mistake(
        {"rewards.py": "def variety(completions:\n"},
        ("reward.functions", "rewards.py", "is not Python", "line 1"),
    ),
    "no such reward is built in": Mistake(
        config("rewards:variety", "accuracy"),
        ("reward.functions", "'accuracy' is not built in", "exact_match", "module:name"),
    ),
    # The machine.
    "no such device": Mistake(
        {},
        ("devices.learner", "cuda:99 cannot be used", "use cpu or auto"),
        types="learner config.toml --set devices.learner=cuda:99",
    ),
    "the run folder cannot be made": Mistake(
        {},
        ("run folder", "train.jsonl: Not a directory", "choose another with run.folder"),
        types="run config.toml --run-folder train.jsonl",
        code=ExitCode.ENVIRONMENT,
    ),
    "anybody may join": Mistake(
        {},
        ("server.host = 0.0.0.0", "set VOLLEY_TOKEN"),
        types="learner config.toml --set server.host=0.0.0.0",
        sets={"VOLLEY_TOKEN": ""},
    ),
    "a learner alone has no Redis": Mistake(
        {}, ("queue.redis_url is needed", "VOLLEY_REDIS_URL"), sets={"VOLLEY_REDIS_URL": ""}
    ),
    "the address of Redis is none": Mistake(
        {},
        ("VOLLEY_REDIS_URL", "write it as redis://"),
        sets={"VOLLEY_REDIS_URL": "localhost:6379"},
        code=ExitCode.ENVIRONMENT,
    ),
    "a run that has diverged is started again": Mistake(
        {"run/diverged.json": '{"reason": "the loss is nan"}'},
        ("run run has stopped before: the loss is nan", "--continue", "--fresh begins another"),
        types="learner config.toml --run-folder run",
        code=ExitCode.DIVERGED,
    ),
    "three mistakes at once, found by a check": Mistake(
        config('"model"', '"./absent"') | {"train.jsonl": None, "rewards.py": "x = 1"},
        ("rewards.py has no 'variety'", "data.train: cannot read", "model.path", "put right"),
        types="check config.toml",
    ),
    # Commands beside a run.
    "a worker's learner has no scheme": Mistake(
        {},
        ("127.0.0.1:8000", "write it as http://HOST:PORT"),
        types="rollout --learner 127.0.0.1:8000",
    ),
    "a worker has no token": Mistake(
        {},
        ("set VOLLEY_TOKEN", "in its run folder"),
        types="rollout --learner http://127.0.0.1:1",
        sets={"VOLLEY_TOKEN": ""},
    ),
    "status of no run": Mistake(
        {}, ("no run in", "give the learner's URL, or go to the folder"), types="status"
    ),
    "no run to be paused": Mistake({}, ("no run in", "give the learner's URL"), types="pause"),
    "status of a run that is over": Mistake(
        {},
        ("no answer from http://127.0.0.1:1", "give the URL that it printed"),
        types="status http://127.0.0.1:1",
        code=ExitCode.ENVIRONMENT,
    ),
    "export of no run": Mistake(
        {}, ("RUN_DIR", "model holds no run", "give a folder like"), types="export model out"
    ),
    "export onto what is there": Mistake(
        {},
        ("OUT: model is not empty", "give a folder that does not exist yet"),
        types="export run model",
    ),
    "no such demo": Mistake({}, ("'sortt'", "'search',", "'sort'"), types="demo sortt"),
    "no such command": Mistake(
        {}, ("No such command 'train'", "--help"), types="train config.toml"
    ),
}


@pytest.fixture(scope="module")
def fine_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("fine")
    write_run(folder)
    return folder


@pytest.fixture
def run(fine_run: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    shutil.copytree(fine_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def seeking_redis(fine_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A learner that looks for its Redis for half a minute, while other tests run."""
    folder = shutil.copytree(fine_run, tmp_path_factory.mktemp("seeking") / "run")
    with under_way("learner config.toml", folder, FAR_FROM_REDIS) as command:
        yield command


def spoil(folder: Path, files: Mapping[str, str | None]) -> None:
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)


def message_of(ended: Ended) -> str:
    """What a person reads at the end, on one screen, without a traceback of ours before it."""
    assert "Traceback" not in ended.output.partition(ERROR_PREFIX)[0], ended.output
    message = ended.output.rpartition(ERROR_PREFIX)[2]
    assert len(message.splitlines()) <= SCREEN_LINES
    return message


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_fix(run, mistake):
    spoil(run, mistake.does)
    ended = volley(mistake.types, run, FAR_FROM_REDIS | mistake.sets)
    message = message_of(ended)
    assert "Traceback" not in message
    assert ended.exit_code == mistake.code, message
    assert [words for words in mistake.says if words not in message] == [], message


def test_a_model_id_that_cannot_be_fetched_is_named(run):
    spoil(run, config('"model"', '"Qwen/Qwen2.5-0.5B-Instruct"'))
    # A process of its own from the start, as the hub's library reads this when it is imported.
    offline = FAR_FROM_REDIS | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(run)}
    log = run / "learner.log"
    path = str(run / "config.toml")
    with running("volley.learner", path, log=log, environment=offline) as one:
        assert one.process.wait(END_S) == ExitCode.CONFIG
    message = message_of(Ended(ExitCode.CONFIG, log.read_text()))
    assert "model.path: Qwen/Qwen2.5-0.5B-Instruct" in message
    assert "a model id that this machine can fetch" in message


@pytest.mark.redis
def test_a_wrong_password_of_redis_is_said_without_showing_it(redis_url, run):
    address = redis_url.rpartition("@")[2]
    wrong = {"VOLLEY_REDIS_URL": f"redis://:wrong-secret@{address}"}
    ended = volley("learner config.toml", run, JOINING | wrong)
    assert ended.exit_code == ExitCode.ENVIRONMENT
    assert "refused the password" in message_of(ended)
    assert "wrong-secret" not in ended.output


@pytest.mark.redis
def test_a_busy_port_is_said(redis_url, run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = volley(
            f"learner config.toml --set server.port={port}",
            run,
            JOINING | {"VOLLEY_REDIS_URL": redis_url},
        )
    assert ended.exit_code == ExitCode.ENVIRONMENT
    assert "choose a free port" in message_of(ended)


@contextmanager
def learning(folder: Path, redis_url: str) -> Iterator[tuple[Command, str]]:
    """A learner that listens, and where."""
    own = JOINING | {"VOLLEY_REDIS_URL": redis_url}
    with under_way("learner config.toml --run-folder run", folder, own, "learner.txt") as command:
        wait_until((folder / "run" / "server.json").exists)
        yield command, learner_url(folder / "run")


def reward(body: str, parameters: str = "prompts, completions, **columns") -> str:
    return f"def variety({parameters}):\n    {body}\n"


@pytest.mark.redis
@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        (reward("raise KeyError('lost')"), ("rewards.py", "line 2", "KeyError: 'lost'")),
        (reward("return [1.0]"), ("1", "4 completions")),
        (reward("return ['good'] * 4"), ("'good'",)),
        (reward("return [float('nan')] * 4"), ("nan",)),
        (
            reward("return [1.0] * 4", "completions, solution, **columns"),
            ("needs the column 'solution'", "the data has answer"),
        ),
    ],
    ids=["it raises", "it returns too few", "it returns text", "it returns nan", "a column lacks"],
)
def test_a_reward_that_never_works_stops_the_run_with_its_words(redis_url, run, rewards, words):
    (run / "rewards.py").write_text(rewards)
    with (
        learning(run, redis_url) as (learner, url),
        under_way(f"rollout --learner {url} --device cpu", run, JOINING, "worker.txt"),
    ):
        ended = learner.end()
    assert ended.exit_code == ExitCode.CONFIG, ended.output
    message = message_of(ended)
    assert "rewards:variety" in message
    assert [word for word in words if word not in message] == [], message
    # Of a traceback there is what the user wrote, and nothing of ours.
    assert "services/" not in message


@pytest.mark.redis
def test_a_worker_that_does_not_belong_here_is_refused(redis_url, run):
    other = run / "other"
    other.mkdir()
    (other / "rewards.py").write_text(reward("return [0.0] * 4"))
    with learning(run, redis_url) as (_, url):
        joining = f"rollout --learner {url} --device cpu"
        stranger = volley(joining, run, {"VOLLEY_TOKEN": "wrong"})
        other_code = volley(f"{joining} --code .", other, JOINING)
        small = volley(f"{joining} --max-num-seqs 2", run, JOINING)
        elsewhere = volley(joining.replace(url, f"{url}/v2"), run, JOINING)
    for ended, words in (
        (stranger, "VOLLEY_TOKEN"),
        (other_code, "give the folder that holds the run's code with --code"),
        (small, "give at least the run's num_generations, 4"),
        (elsewhere, "/v2"),
    ):
        message = message_of(ended)
        assert ended.exit_code == ExitCode.CONFIG, message
        assert words in message


@pytest.mark.redis
def test_a_second_learner_on_a_run_is_refused(redis_url, run):
    with learning(run, redis_url):
        second = volley(
            "learner config.toml --run-folder run",
            run,
            JOINING | {"VOLLEY_REDIS_URL": redis_url},
        )
    assert second.exit_code == ExitCode.ANOTHER_LEARNER
    assert "--fresh" in message_of(second)


# Last, as it takes half a minute from the start of the first test.
def test_a_learner_without_redis_says_where_it_looked(seeking_redis):
    ended = seeking_redis.end()
    message = message_of(ended)
    assert ended.exit_code == ExitCode.ENVIRONMENT
    assert "127.0.0.1:1" in message
    assert "is it running there?" in message
