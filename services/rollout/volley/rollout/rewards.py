"""Reward functions: `reward(prompts, completions, **columns) -> list[float | None]`.

All three are lists of length G: the prompt and the columns of the data row G times over, and one
text per completion. None means that the function does not apply. A function gets the arguments
that it names, or all with `**kwargs`; it may be async.

A failure is never a reward: whatever is not a list of G numbers raises RewardFailed.
"""

import asyncio
import inspect
import math
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType

from volley.schemas.run_spec import BUILTIN_REWARDS, RewardSpec
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes

RewardFunction = Callable[..., object]
Prompt = str | list[dict[str, str]]


class RewardFailed(Exception):
    """A reward function did not give rewards; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A loaded reward function under its name."""

    name: str
    function: RewardFunction

    def score(
        self, prompt: Prompt, completions: Sequence[str], columns: Mapping[str, object]
    ) -> tuple[float | None, ...]:
        """One reward per completion; raises RewardFailed."""
        num_completions = len(completions)
        offered = {name: [value] * num_completions for name, value in columns.items()}
        offered |= {"prompts": [prompt] * num_completions, "completions": list(completions)}
        arguments = self._accepted(offered)
        try:
            answer = self.function(**arguments)
            if inspect.isawaitable(answer):
                answer = asyncio.run(_awaited(answer))
            if not isinstance(answer, Iterable):
                raise TypeError(f"gave {type(answer).__name__}, not a list of rewards")
            rewards = list(answer)
        # User code may raise anything, and none of it may end the worker.
        except (Exception, SystemExit) as error:
            raise RewardFailed(f"reward {self.name} raised\n{_user_traceback(error)}") from error
        if len(rewards) != num_completions:
            raise RewardFailed(
                f"reward {self.name} gave {len(rewards)} values for {num_completions} completions"
            )
        return tuple(self._checked(reward) for reward in rewards)

    def _accepted(self, offered: dict[str, list[object]]) -> dict[str, list[object]]:
        parameters = inspect.signature(self.function).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return offered
        needed = [p.name for p in parameters if p.default is p.empty]
        missing = [name for name in needed if name not in offered]
        if missing:
            raise RewardFailed(
                f"reward {self.name} needs the column {missing[0]!r}, "
                f"the data has {', '.join(sorted(offered))}"
            )
        named = {parameter.name for parameter in parameters}
        return {name: values for name, values in offered.items() if name in named}

    def _checked(self, reward: object) -> float | None:
        if reward is None:
            return None
        if not isinstance(reward, Real):
            raise RewardFailed(f"reward {self.name} gave {reward!r:.80}, not a number or None")
        try:
            number = float(reward)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise RewardFailed(f"reward {self.name} gave {number}, not a finite number")
        return number


def exact_match(completions: list[str], answer: list[object]) -> list[float]:
    """1 where the completion is the answer, but for spaces around it, else 0."""
    return [
        float(completion.strip() == str(wanted).strip())
        for completion, wanted in zip(completions, answer, strict=True)
    ]


_BUILTIN: Mapping[str, RewardFunction] = {"exact_match": exact_match}
assert tuple(_BUILTIN) == BUILTIN_REWARDS


def load_rewards(specs: Sequence[RewardSpec], code_folder: Path) -> tuple[Reward, ...]:
    """The run's reward functions in order, their code verified; raises Stop naming the file."""
    modules: dict[str, ModuleType] = {}
    return tuple(Reward(spec.name, _load(spec, code_folder, modules)) for spec in specs)


def _load(spec: RewardSpec, code_folder: Path, modules: dict[str, ModuleType]) -> RewardFunction:
    module_name, colon, function_name = spec.name.partition(":")
    if not colon:
        if spec.name not in _BUILTIN:
            raise Stop(ExitCode.CONFIG, f"reward {spec.name}: not built into this version")
        return _BUILTIN[spec.name]
    if module_name not in modules:
        modules[module_name] = _import_file(spec, code_folder, module_name)
    function: object = getattr(modules[module_name], function_name, None)
    if not callable(function):
        raise Stop(ExitCode.CONFIG, f"reward {spec.name}: the module has no such function")
    return function


def _import_file(spec: RewardSpec, code_folder: Path, module_name: str) -> ModuleType:
    """The module made from the very bytes that were hashed."""
    path = code_folder / f"{module_name.replace('.', '/')}.py"
    fix = "give the folder that holds the run's reward code with --code"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Stop(
            ExitCode.CONFIG, f"reward {spec.name}: cannot read {path}: {error.strerror}: {fix}"
        ) from error
    if spec.file_hash != hash_bytes(content):
        raise Stop(
            ExitCode.CONFIG, f"reward {spec.name}: {path} is not the learner's version: {fix}"
        )
    module = ModuleType(f"reward_code.{module_name}")
    module.__file__ = str(path)
    # Dataclasses look their module up; modules beside it may be imported.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(code_folder))
    try:
        exec(compile(content, path, "exec"), module.__dict__)
    except Exception as error:
        raise Stop(
            ExitCode.CONFIG,
            f"reward {spec.name}: importing {path} failed\n{_user_traceback(error)}",
        ) from error
    return module


async def _awaited(answer: Awaitable[object]) -> object:
    return await answer


def _user_traceback(error: BaseException) -> str:
    """The traceback from the user's first frame on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()
