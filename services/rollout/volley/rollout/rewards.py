"""Reward functions: `reward(prompts, completions, **columns) -> list[float | None]`.

All three are lists of length G: the prompt and the columns of the data row G times over, and one
text per completion. None means that the function does not apply. A function gets the arguments
that it names, or all with `**kwargs`; it may be async.

A failure is never a reward: whatever is not a list of G numbers raises RewardFailed.

A function of the user's runs in a process of its own: see reward_pool.py.
"""

import asyncio
import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real

RewardFunction = Callable[..., object]
Prompt = str | list[dict[str, str]]


class FailureKind(StrEnum):
    RAISED = "raised"
    """An exception, or something that is not a reward."""
    MISCOUNTED = "miscounted"
    """Not one reward for each completion."""
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    DIED = "died"
    """Its process ended before it answered."""


class RewardFailed(Exception):
    """A reward function did not give rewards; the text names it and says why."""

    def __init__(self, text: str, kind: FailureKind = FailureKind.RAISED) -> None:
        super().__init__(text)
        self.kind = kind


Score = float | None | RewardFailed
"""Of one completion: a reward, None where the function does not apply, or why there is none."""


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
        # User code may raise anything, and none of it may end the process.
        except MemoryError as error:
            text = f"reward {self.name} ran out of memory\n{user_traceback(error, __file__)}"
            raise RewardFailed(text, FailureKind.OUT_OF_MEMORY) from error
        except (Exception, SystemExit) as error:
            raise RewardFailed(
                f"reward {self.name} raised\n{user_traceback(error, __file__)}"
            ) from error
        if len(rewards) != num_completions:
            raise RewardFailed(
                f"reward {self.name} gave {len(rewards)} values for {num_completions} completions",
                FailureKind.MISCOUNTED,
            )
        return tuple(self._checked(reward) for reward in rewards)

    def _accepted(self, offered: dict[str, list[object]]) -> dict[str, list[object]]:
        parameters = inspect.signature(self.function).parameters.values()
        named = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
        missing = [
            one.name for one in named if one.default is one.empty and one.name not in offered
        ]
        if missing:
            raise RewardFailed(
                f"reward {self.name} needs the column {missing[0]!r}, "
                f"the data has {', '.join(sorted(offered))}"
            )
        if any(one.kind is one.VAR_KEYWORD for one in parameters):
            return offered
        names = {one.name for one in named}
        return {name: values for name, values in offered.items() if name in names}

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


async def _awaited(answer: Awaitable[object]) -> object:
    return await answer


def user_traceback(error: BaseException, own_file: str) -> str:
    """The traceback from the first frame on that is not in `own_file`; without, the error alone."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == own_file:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()
