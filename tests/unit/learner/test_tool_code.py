import pytest

from volley.learner.environment_code import read_environment_spec, tool_schemas
from volley.learner.environment_settings import EnvironmentSettings
from volley.learner.tool_code import read_tool_specs
from volley.telemetry.stops import Stop
from volley.transport.tensors import hash_bytes

CODE = b'''
from dataclasses import dataclass

print("this is no answer")


@dataclass
class Place:
    name: str


def add(a: int, b: int = 10) -> int:
    """Add two numbers.

    Args:
        a: The first one.
        b: The second one.
    """
    return a + b


async def search(query: str) -> str:
    """Find something.

    Args:
        query: A few words.
    """
    return query


def unexplained(a: int) -> int:
    return a


def again(a: int) -> int:
    return a
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_tools.py").write_bytes(CODE)
    (tmp_path / "json.py").write_bytes(b"raise OSError('there is no disk')\nadd = again = None\n")
    return tmp_path


def test_hints_and_docstring_become_what_the_model_is_shown(folder):
    settings = EnvironmentSettings(
        name="tools", options={"functions": ["my_tools:add", "my_tools:search"], "max_calls": 2}
    )
    spec = read_environment_spec(settings, folder)
    assert spec is not None
    assert spec.file_hash is None
    assert [tool.name for tool in spec.tools] == ["my_tools:add", "my_tools:search"]
    assert {tool.file_hash for tool in spec.tools} == {hash_bytes(CODE)}
    add, search = tool_schemas(spec)
    parameters = {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "The first one."},
            "b": {"type": "integer", "description": "The second one."},
        },
        "required": ["a"],
    }
    assert add["type"] == "function"
    assert add["function"] == {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": parameters,
        "return": {"type": "integer"},
    }
    assert isinstance(search["function"], dict)
    assert search["function"]["name"] == "search"


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        (None, "needs functions to call"),
        ([], "needs functions to call"),
        ("my_tools:add", "needs functions to call"),
        (["add"], "write your own as module:name"),
        (["my_tools:ad"], "has no 'ad'"),
        (["my_tools:again", "json:again"], "two functions 'again'"),
        (["my_tools:unexplained"], "my_tools:unexplained needs type hints and a docstring"),
        (["json:add"], "OSError: there is no disk"),
    ],
)
def test_functions_that_cannot_be_shown_are_named(folder, functions, words):
    with pytest.raises(Stop, match=r"environment\.options\.functions") as caught:
        read_tool_specs({"functions": functions}, folder)
    assert words in caught.value.message
