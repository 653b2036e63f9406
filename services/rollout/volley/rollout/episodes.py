"""Episodes: turns of the model, and between them what the environment inserts.

    begin -> open environments -> turn: G samples of one prompt -> respond --> text: insert,
                                   ^                                |          another turn, alone
                                   +--------------------------------+--------> None: the end

Token ids only grow: a turn's are kept as they were sampled, and an insertion is tokenised once.
Without an environment an episode is its first turn. While one waits for its environment others are
sampled. The first turns of a group end together, later ones each for itself.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from volley.rollout.calls import CallFailed, Calls
from volley.rollout.engine import Engine, Sample, SampleRequest, Unservable
from volley.rollout.environment import Answer, Environment
from volley.rollout.environment_code import OpenEnvironment
from volley.rollout.episode import Episode, checked_stop_strings
from volley.rollout.insertions import (
    Frames,
    Texts,
    checked_answer,
    inserted_ids,
    num_characters,
)
from volley.rollout.rewards import Prompt
from volley.rollout.stop_strings import StopStrings
from volley.schemas.groups import FailureReason, StopReason
from volley.schemas.run_spec import SamplingSpec

WAIT_S = 0.05
"""While nothing is sampled, for an answer, in one go."""
CHARACTERS_PER_TOKEN = 64
"""No text has more; a longer one is not worth tokenising to see that it does not fit."""

MAX_SEED = 2**63


@dataclass(frozen=True, slots=True)
class EpisodeRules:
    """What answers, and for how long."""

    open: OpenEnvironment
    max_turns: int
    timeout_s: float
    """Of one answer."""
    frames: Frames = field(default_factory=dict)
    """What the chat template writes around its messages."""


@dataclass(frozen=True, slots=True)
class EpisodesRequest:
    """One prompt, to be gone through `sampling.num_generations` times."""

    id: str
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    columns: Mapping[str, object]
    seed: int
    sampling: SamplingSpec
    """Its max_completion_length holds for all turns and insertions of an episode together."""


@dataclass(frozen=True, slots=True)
class EpisodesEnded:
    """A request of which all episodes are over."""

    id: str
    episodes: tuple[Episode, ...]


@dataclass(frozen=True, slots=True)
class EpisodesFailed:
    """A request that came to nothing, and why."""

    id: str
    reason: FailureReason
    detail: str


@dataclass(frozen=True, slots=True)
class EpisodesStep:
    """What one step brought."""

    ended: tuple[EpisodesEnded | EpisodesFailed, ...]
    num_tokens: Mapping[str, int]
    """Sampled in it, by request id."""


@dataclass(slots=True, eq=False)
class _Group:
    request: EpisodesRequest
    episodes: list[Episode]
    stop_strings: StopStrings | None = None
    num_waiting: int = 0
    """Calls of its environments that have not returned."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What an engine's request is for."""

    group: _Group
    episodes: Sequence[Episode]


_Call = tuple[str, int | None]
"""A request's id, and which of its episodes is to be answered; None: to open them all."""


class Episodes:
    """Takes requests through their turns with an engine and, if there is one, an environment."""

    def __init__(
        self, engine: Engine, texts: Texts, vocab_size: int, rules: EpisodeRules | None
    ) -> None:
        self._engine = engine
        self._texts = texts
        self._vocab_size = vocab_size
        self._rules = rules
        self._groups: dict[str, _Group] = {}
        self._turns: dict[str, _Turn] = {}
        """By the engine's request ids."""
        self._ended: list[EpisodesEnded | EpisodesFailed] = []
        self._stop_strings: dict[tuple[str, ...], StopStrings] = {}
        self._calls: Calls[_Call, object] = Calls(rules.timeout_s if rules else math.inf)

    @property
    def num_free_seqs(self) -> int:
        """Sequences that would start at the next step; who waits for an answer keeps a place."""
        num_waiting = sum(group.num_waiting for group in self._groups.values())
        return max(0, self._engine.num_free_seqs - num_waiting)

    @property
    def waiting(self) -> frozenset[str]:
        """Requests of which an environment is being called."""
        return frozenset(group.request.id for group in self._groups.values() if group.num_waiting)

    def begin(self, request: EpisodesRequest) -> None:
        """Take a request in; it ends in some later step."""
        group = self._groups[request.id] = _Group(request, [])
        num_generations = request.sampling.num_generations
        if self._rules is None:
            group.episodes = [Episode(None) for _ in range(num_generations)]
            self._sample_first(group)
            return
        rules = self._rules
        group.num_waiting = num_generations
        self._calls.start(
            (request.id, None),
            lambda: [rules.open(request.prompt, request.columns) for _ in range(num_generations)],
        )

    def step(self) -> EpisodesStep:
        """Take in what environments answered, then advance what is being sampled."""
        for call, value in self._calls.take(0.0 if self._turns else WAIT_S):
            self._take_answer(call, value)
        result = self._engine.step()
        num_tokens: Counter[str] = Counter()
        for request_id, num_sampled in result.num_tokens.items():
            num_tokens[self._turns[request_id].group.request.id] += num_sampled
        for sampled in result.finished:
            turn = self._turns.pop(sampled.request_id)
            for episode, sample in zip(turn.episodes, sampled.samples, strict=True):
                self._take_sample(turn.group, episode, sample)
            self._end_if_over(turn.group)
        ended, self._ended = self._ended, []
        return EpisodesStep(tuple(ended), num_tokens)

    def abort(self, request_id: str) -> None:
        """Forget a request; it will not end. Unknown ids are ignored."""
        group = self._groups.pop(request_id, None)
        if group is None:
            return
        for turn_id in [key for key, turn in self._turns.items() if turn.group is group]:
            del self._turns[turn_id]
            self._engine.abort(turn_id)
        for index in (None, *range(len(group.episodes))):
            self._calls.forget((request_id, index))

    def close(self) -> None:
        """Let go of the environments; the engine is not closed."""
        self._calls.close()

    def _take_answer(self, call: _Call, value: object) -> None:
        request_id, index = call
        group = self._groups[request_id]
        if index is None:
            self._open(group, value)
            return
        group.num_waiting -= 1
        episode = group.episodes[index]
        try:
            self._answer(group, episode, value)
        except CallFailed as failure:
            episode.fail(str(failure))
        self._end_if_over(group)

    def _open(self, group: _Group, value: object) -> None:
        group.num_waiting = 0
        try:
            if isinstance(value, CallFailed):
                raise value
            assert isinstance(value, list), "environments were opened"
            group.stop_strings = self._stop_strings_of(value[0])
        except CallFailed as failure:
            self._fail(group, FailureReason.ENVIRONMENT, str(failure))
            return
        group.episodes = [Episode(environment) for environment in value]
        self._sample_first(group)

    def _sample_first(self, group: _Group) -> None:
        request = group.request
        try:
            self._engine.add(
                SampleRequest(
                    request.id,
                    request.prompt_ids,
                    request.seed,
                    request.sampling,
                    group.stop_strings,
                )
            )
        except Unservable as error:
            self._fail(group, FailureReason.PROMPT, str(error))
            return
        self._turns[request.id] = _Turn(group, group.episodes)

    def _take_sample(self, group: _Group, episode: Episode, sample: Sample) -> None:
        episode.say(sample, self._texts.text_of(sample.token_ids))
        environment = episode.environment
        if environment is None or sample.stop_reason is StopReason.LENGTH:
            episode.end(sample.stop_reason)
            return
        transcript = episode.transcript(group.request.prompt)
        group.num_waiting += 1
        self._calls.start(
            (group.request.id, group.episodes.index(episode)),
            lambda: environment.respond(transcript),
        )

    def _answer(self, group: _Group, episode: Episode, value: object) -> None:
        """Go on with an answer; raises CallFailed where it is none."""
        if isinstance(value, CallFailed):
            raise value
        if value is None:
            episode.end(StopReason.STOP)
            return
        assert self._rules is not None, "somebody has answered"
        answer = checked_answer(value)
        num_left = group.request.sampling.max_completion_length - len(episode.token_ids)
        token_ids = self._inserted_ids(answer, episode, num_left)
        if len(episode.turns) >= self._rules.max_turns:
            episode.end(StopReason.TURNS)
        elif len(token_ids) >= num_left:
            episode.end(StopReason.LENGTH)
        else:
            text = answer if isinstance(answer, str) else self._texts.text_of(token_ids)
            episode.insert(token_ids, text)
            self._sample_next(group, episode, num_left - len(token_ids))

    def _inserted_ids(self, answer: Answer, episode: Episode, num_left: int) -> Sequence[int]:
        """Token ids of an answer, or too many where it is much too long to look."""
        if num_characters(answer) > num_left * CHARACTERS_PER_TOKEN:
            return range(num_left)
        assert self._rules is not None, "somebody has answered"
        return inserted_ids(answer, episode.token_ids[-1], self._rules.frames, self._texts)

    def _sample_next(self, group: _Group, episode: Episode, num_left: int) -> None:
        request, turn, index = group.request, len(episode.turns), group.episodes.index(episode)
        turn_id = f"{request.id}/{index}/{turn}"
        self._engine.add(
            SampleRequest(
                turn_id,
                (*request.prompt_ids, *episode.token_ids),
                (request.seed + turn * len(group.episodes) + index) % MAX_SEED,
                msgspec.structs.replace(
                    request.sampling, num_generations=1, max_completion_length=num_left
                ),
                group.stop_strings,
            )
        )
        self._turns[turn_id] = _Turn(group, [episode])

    def _end_if_over(self, group: _Group) -> None:
        if any(episode.stop_reason is None for episode in group.episodes):
            return
        failures = [one.failure for one in group.episodes if one.failure is not None]
        if len(failures) == len(group.episodes):
            self._fail(group, FailureReason.ENVIRONMENT, failures[0])
            return
        del self._groups[group.request.id]
        self._ended.append(EpisodesEnded(group.request.id, tuple(group.episodes)))

    def _fail(self, group: _Group, reason: FailureReason, detail: str) -> None:
        del self._groups[group.request.id]
        self._ended.append(EpisodesFailed(group.request.id, reason, detail))

    def _stop_strings_of(self, environment: Environment) -> StopStrings | None:
        strings = checked_stop_strings(environment)
        if not strings:
            return None
        if strings not in self._stop_strings:
            self._stop_strings[strings] = StopStrings(
                strings, self._texts.text_of, self._vocab_size
            )
        return self._stop_strings[strings]
