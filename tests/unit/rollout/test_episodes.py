"""Episodes on a real engine: ids only grow, and every log-prob is the engine's own."""

import string
import threading

import pytest

from tests.multi_turn import SAMPLING, Counting, ask, assert_turns_agree
from tests.sampling import FIRST, published
from tests.tiny_models import VOCAB
from volley.rollout.episodes import (
    EpisodeRules,
    Episodes,
    EpisodesEnded,
    EpisodesFailed,
    EpisodesRequest,
)
from volley.rollout.tokenizer import Tokenizer
from volley.schemas.groups import FailureReason, StopReason
from volley.schemas.run_spec import SamplingSpec


class Recorder:
    """An engine that remembers what it was asked and what it answered."""

    def __init__(self, engine):
        self._engine = engine
        self.requests = {}
        self.samples = {}

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def add(self, request):
        self.requests[request.id] = request
        self._engine.add(request)

    def step(self):
        result = self._engine.step()
        self.samples |= {group.request_id: group.samples for group in result.finished}
        return result


@pytest.fixture
def recorder(engine, model):
    engine.load(published(model), FIRST)
    return Recorder(engine)


@pytest.fixture
def make_episodes(recorder, model_folder):
    made = []

    def make(opens=None, max_turns=8, timeout_s=20.0):
        rules = None if opens is None else EpisodeRules(opens, max_turns, timeout_s)
        made.append(Episodes(recorder, Tokenizer(model_folder), len(VOCAB), rules))
        return made[-1]

    yield make
    for episodes in made:
        episodes.close()


def test_without_an_environment_an_episode_is_one_turn(make_episodes, recorder):
    (ended,) = ask(make_episodes(), 1)
    samples = recorder.samples["task-1"]
    for episode, sample in zip(ended.episodes, samples, strict=True):
        assert tuple(episode.token_ids) == sample.token_ids
        assert tuple(episode.logprobs) == sample.logprobs
        assert tuple(episode.version_spans) == sample.version_spans
        assert episode.stop_reason is sample.stop_reason
        assert episode.inserted_spans == []


def test_trained_ids_and_logprobs_are_exactly_what_the_engine_returned(make_episodes, recorder):
    prompt_ids = (VOCAB["s"], VOCAB["="])
    num_turns = 0
    for ended in ask(make_episodes(Counting), *range(6)):
        for g, episode in enumerate(ended.episodes):
            sampled = [recorder.samples[ended.id][g]]
            for turn in range(1, len(episode.turns)):
                turn_id = f"{ended.id}/{g}/{turn}"
                start = episode.inserted_spans[turn - 1].stop
                request = recorder.requests[turn_id]
                assert request.prompt_ids == (*prompt_ids, *episode.token_ids[:start])
                assert request.sampling.max_completion_length == 24 - start
                sampled += recorder.samples[turn_id]
            inserted_T = [False] * len(episode.token_ids)
            for span in episode.inserted_spans:
                inserted_T[span.start : span.stop] = [True] * (span.stop - span.start)
                assert episode.token_ids[span.start : span.stop] == [VOCAB["a"], VOCAB["b"]]
            own = [t for t, inserted in enumerate(inserted_T) if not inserted]
            assert [episode.token_ids[t] for t in own] == [i for s in sampled for i in s.token_ids]
            assert [episode.logprobs[t] for t in own] == [x for s in sampled for x in s.logprobs]
            assert sum(span.num_tokens for span in episode.version_spans) == len(episode.token_ids)
            num_turns += len(sampled)
    assert num_turns > 6 * 4 * 1.5


def test_the_turns_together_are_what_one_forward_gives(make_episodes, model):
    ended = ask(make_episodes(Counting), *range(4))
    assert_turns_agree(model, ended)


def test_a_turn_ends_at_a_stop_string_and_the_environment_sees_the_text(make_episodes):
    for ended in ask(make_episodes(Counting), *range(4)):
        for episode in ended.episodes:
            assert isinstance(episode.environment, Counting)
            for before, transcript in enumerate(episode.environment.seen):
                assert transcript.turns == tuple(episode.turns[: before + 1])
                assert transcript.insertions == ("ab",) * before
                assert transcript.completion.count("ab") >= before
                assert transcript.prompt == "s="
            for text in episode.turns:
                assert "a" not in text[:-1]
                assert "z" not in text[:-1]
            # What did not fit was answered, too.
            did_not_fit = episode.stop_reason is StopReason.LENGTH
            assert 0 <= episode.metrics["answers"] - len(episode.inserted_spans) <= did_not_fit


def test_turns_and_tokens_are_limited(make_episodes):
    endless = lambda prompt, columns: Counting(prompt, columns, 99)  # noqa: E731
    reasons = set()
    for ended in ask(make_episodes(endless, max_turns=3), *range(8)):
        for episode in ended.episodes:
            assert len(episode.turns) <= 3
            assert len(episode.token_ids) <= 24
            reasons.add(episode.stop_reason)
            if episode.stop_reason is StopReason.TURNS:
                assert len(episode.turns) == 3
                assert episode.inserted_spans[-1].stop < len(episode.token_ids)
    assert reasons == {StopReason.TURNS, StopReason.LENGTH}


class Wild(Counting):
    """Does something else in every episode, and soon."""

    stop_strings = tuple(string.ascii_lowercase)
    opened = 0
    never = threading.Event()

    def __init__(self, prompt, columns):
        super().__init__(prompt, columns)
        self._kind = Wild.opened % 6
        Wild.opened += 1

    def respond(self, transcript):
        match self._kind:
            case 0:
                raise OSError("no such tool")
            case 1:
                self.never.wait()
            case 2:
                return "a" * 10_000_000
            case 3:
                return "\ud800"
            case 4:
                return 3
        return None


def test_an_environment_that_fails_harms_only_its_own_sample(make_episodes):
    Wild.opened = 0
    sampling = SamplingSpec(6, 1.0, 24, (VOCAB["<eos>"],))
    try:
        (ended,) = ask(make_episodes(Wild, timeout_s=0.5), 3, sampling=sampling)
    finally:
        Wild.never.set()
    assert isinstance(ended, EpisodesEnded)
    failures = {g: one.failure for g, one in enumerate(ended.episodes) if one.failure}
    assert "no such tool" in failures[0]
    assert "no answer within 0.5 s" in failures[1]
    assert "no unicode" in failures[3]
    assert "answered 3" in failures[4]
    assert failures.keys() == {0, 1, 3, 4}
    assert ended.episodes[2].stop_reason is StopReason.LENGTH
    assert ended.episodes[5].stop_reason is StopReason.STOP


def test_a_request_whose_environments_all_fail_comes_to_nothing(make_episodes):
    def opens(prompt, columns):
        raise KeyError("corpus")

    (failed,) = ask(make_episodes(opens), 1)
    assert isinstance(failed, EpisodesFailed)
    assert failed.reason is FailureReason.ENVIRONMENT
    assert "corpus" in failed.detail


def test_a_prompt_that_does_not_fit_comes_to_nothing(make_episodes):
    (failed,) = ask(make_episodes(), 1, sampling=SamplingSpec(4, 1.0, 100, ()))
    assert isinstance(failed, EpisodesFailed)
    assert failed.reason is FailureReason.PROMPT


def test_what_is_aborted_does_not_end_and_makes_room(make_episodes, recorder):
    episodes = make_episodes(Counting)
    num_free = episodes.num_free_seqs
    episodes.begin(EpisodesRequest("gone", "s=", (VOCAB["s"],), {}, 1, SAMPLING))
    assert episodes.num_free_seqs == num_free - 4
    assert episodes.waiting == {"gone"}
    episodes.abort("gone")
    assert episodes.num_free_seqs == num_free
    (ended,) = ask(episodes, 1)
    assert ended.id == "task-1"


@pytest.mark.parametrize("strings", ["abc", ("",), (3,)])
def test_stop_strings_that_are_none_are_said(make_episodes, strings):
    environment = type("Odd", (Counting,), {"stop_strings": strings})
    (failed,) = ask(make_episodes(environment), 1)
    assert "stop_strings is" in failed.detail


@pytest.mark.parametrize("metrics", [{"a": "b"}, [1], {"a": float("nan")}])
def test_metrics_that_are_none_are_said(make_episodes, metrics):
    class Odd(Counting):
        stop_strings = tuple(string.ascii_lowercase)

        def respond(self, transcript):
            self.metrics = metrics
            return None

    (failed,) = ask(make_episodes(Odd), 1)
    assert "metrics is" in failed.detail
