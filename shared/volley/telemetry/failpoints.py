"""Places in the code where a process can be told to die, so that its promises can be tested.

    VOLLEY_FAILPOINT=after-log@3           SIGKILL at the third time that after-log is reached
    VOLLEY_FAILPOINT=after-log@3:stop      SIGSTOP there: a process that hangs, and can be woken
    VOLLEY_FAILPOINT=mid-backward#17       SIGKILL whenever it is reached for prompt number 17
    VOLLEY_FAILPOINT=random@0.02/7         SIGKILL at any point with this probability; 7 is the seed

Counts and draws are a process's own: one that is started again begins again.
"""

import itertools
import os
import random
import re
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from volley.telemetry.stops import ExitCode, Stop

VARIABLE = "VOLLEY_FAILPOINT"

Failpoint = Literal[
    # of the learner
    "after-collect",
    "after-log",
    "after-drop",
    "mid-backward",
    "after-optimizer-step",
    "after-outcome",
    "mid-checkpoint",
    "before-checkpoint-rename",
    "after-checkpoint-rename",
    "after-blobs",
    "after-publish",
    "after-cold-start-step",
    # of a worker
    "mid-generation",
    "mid-reward",
    "after-complete",
    "mid-download",
    "mid-swap",
]
FAILPOINTS: tuple[str, ...] = get_args(Failpoint)

_FORM = re.compile(
    r"(random@(?P<probability>0|1|0?\.\d+)/(?P<seed>\d+)"
    r"|(?P<name>[a-z-]+)(@(?P<count>[1-9]\d*)|#(?P<number>\d+)))"
    r"(?P<stop>:stop)?"
)


@dataclass(frozen=True, slots=True)
class Trigger:
    """When to die, and how."""

    is_hit: Callable[[str, Collection[int]], bool]
    """Of a failpoint's name and the prompt numbers it is reached for, once each time."""
    signal: signal.Signals


def reach(name: Failpoint, *numbers: int) -> None:
    """Die here, if the environment says so; `numbers` are the prompts' that are worked on."""
    trigger = _trigger()
    if trigger is not None and trigger.is_hit(name, numbers):
        os.kill(os.getpid(), trigger.signal)


@cache
def _trigger() -> Trigger | None:
    text = os.environ.get(VARIABLE)
    return parse_trigger(text) if text else None


def parse_trigger(text: str) -> Trigger:
    """What a value of the variable means; raises Stop."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise _refusal(text, "write it as NAME@COUNT, NAME#NUMBER or random@PROBABILITY/SEED")
    name = match["name"]
    if name and name not in FAILPOINTS:
        raise _refusal(text, f"there is no {name!r}, only {', '.join(FAILPOINTS)}")
    number = signal.SIGSTOP if match["stop"] else signal.SIGKILL
    return Trigger(_condition(match), number)


def _condition(match: re.Match[str]) -> Callable[[str, Collection[int]], bool]:
    target = match["name"]
    if match["number"]:
        chosen = int(match["number"])
        return lambda name, numbers: name == target and chosen in numbers
    if match["count"]:
        count = int(match["count"])
        # Its next() is one step for Python, so threads that reach the point share it as it is.
        counter = itertools.count(1)
        return lambda name, numbers: name == target and next(counter) == count
    probability, dice = float(match["probability"]), random.Random(int(match["seed"]))
    return lambda name, numbers: dice.random() < probability


def _refusal(text: str, reason: str) -> Stop:
    return Stop(ExitCode.CONFIG, f"{VARIABLE}={text}: {reason}")
