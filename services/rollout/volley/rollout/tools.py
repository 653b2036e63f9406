"""The built-in environment `tools`: the model calls Python functions, and is told what they return.

    [environment]
    name = "tools"
    [environment.options]
    functions = ["my_tools:search", "my_tools:add"]     # type hints, and a docstring with Args:

    <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>

The chat template shows the functions to the model. A turn may call several of them; each result
goes back as a `tool` message. A turn without a call ends the episode. What goes wrong in a call is
its result, so that the model can do better; a function that does not return in time fails its
sample (environment.timeout_s, for all calls of a turn together).
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, PositiveInt

from volley.rollout.environment import Message, Transcript
from volley.rollout.environment_options import read_options
from volley.rollout.rewards import Prompt
from volley.rollout.tags import Tag, contents, escape_tags
from volley.rollout.user_code import Imports, read_user_code
from volley.schemas.run_spec import ToolSpec

Functions = Mapping[str, Callable[..., object]]


class ToolsOptions(BaseModel):
    """What `[environment.options]` may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    functions: tuple[str, ...]
    """`module:function` each, beside the config file."""
    call_tag: Tag = "tool_call"
    """The model writes its calls in it, each an object with `name` and `arguments`."""
    result_tag: Tag = "tool_response"
    """The chat template writes results in it, so it is escaped in them, as call_tag is."""
    max_calls: PositiveInt = 8
    """Of one turn."""
    max_result_chars: PositiveInt = 4_000
    """Kept of each result."""


class Call(Struct, frozen=True):
    """What the model writes."""

    name: str
    arguments: dict[str, object] = {}


class InvalidCall(Exception):
    """What stands in the tag calls nothing; the text tells the model why."""


class Tools:
    """An episode's own calls of functions that all episodes share."""

    stop_strings = ()

    def __init__(
        self,
        prompt: Prompt,
        columns: Mapping[str, object],
        *,
        options: ToolsOptions,
        functions: Functions,
    ) -> None:
        self.metrics = {"called": 0, "tool_calls": 0, "tool_errors": 0}
        self._options = options
        self._functions = functions

    def respond(
        self, transcript: Transcript
    ) -> list[Message] | Awaitable[list[Message] | None] | None:
        """The results, where the turn calls functions."""
        calls = contents(transcript.turn, self._options.call_tag)
        if not calls:
            return None
        self.metrics["called"] = 1
        self.metrics["tool_calls"] += len(calls)
        values = [self._value_of(index, call) for index, call in enumerate(calls)]
        if any(map(inspect.isawaitable, values)):
            return self._await(values)
        return self._messages(values)

    # Functions that block do so in this episode's thread; only what is awaitable is awaited in the
    # event loop that all episodes share.
    async def _await(self, values: Sequence[object]) -> list[Message]:
        awaited = []
        for value in values:
            try:
                awaited.append(await value if inspect.isawaitable(value) else value)
            except (Exception, SystemExit) as error:
                awaited.append(error)
        return self._messages(awaited)

    def _value_of(self, index: int, call: str) -> object:
        """What a call returned or raised; user code may raise anything."""
        try:
            if index >= self._options.max_calls:
                raise InvalidCall(f"at most {self._options.max_calls} calls at a time")
            read = _read_call(call)
            if read.name not in self._functions:
                raise InvalidCall(f"no tool {read.name!r}: there are {', '.join(self._functions)}")
            return self._functions[read.name](**read.arguments)
        except (Exception, SystemExit) as error:
            return error

    def _messages(self, values: Sequence[object]) -> list[Message]:
        return [{"role": "tool", "content": self._shown(value)} for value in values]

    def _shown(self, value: object) -> str:
        """A result as text that is valid, not too long, and without the tags of calls."""
        try:
            text = _error_text(value) if isinstance(value, BaseException) else _text_of(value)
        except (Exception, SystemExit) as error:
            value, text = error, _error_text(error)
        self.metrics["tool_errors"] += isinstance(value, BaseException)
        text = text[: self._options.max_result_chars].encode(errors="replace").decode()
        return escape_tags(text, (self._options.call_tag, self._options.result_tag))


def load_tools(
    options: Mapping[str, object], specs: Sequence[ToolSpec], code_folder: Path
) -> Callable[[Prompt, Mapping[str, object]], Tools]:
    """What begins an episode; returns when the functions are imported, raises Stop."""
    checked = read_options(ToolsOptions, options)
    imports = Imports(code_folder)
    functions = {
        spec.name.rpartition(":")[2]: imports.take(
            read_user_code("tool", spec.name, spec.file_hash, code_folder)
        )
        for spec in specs
    }
    return partial(Tools, options=checked, functions=functions)


def _read_call(text: str) -> Call:
    try:
        return msgspec.json.decode(text, type=Call)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidCall(f'a call is {{"name": ..., "arguments": {{...}}}}: {error}') from error


def _text_of(result: object) -> str:
    """Text as it is, all else as JSON, or as Python shows it."""
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(result)


def _error_text(error: BaseException) -> str:
    return f"error: {error}" if isinstance(error, InvalidCall) else f"error: {error!r}"
