"""An environment that answers, and episodes with it on any engine."""

import torch

from tests.tiny_models import VOCAB
from tests.waiting import wait_until
from volley.rollout.episodes import Episodes, EpisodesEnded, EpisodesFailed, EpisodesRequest
from volley.schemas.run_spec import SamplingSpec

SAMPLING = SamplingSpec(4, 1.0, 24, (VOCAB["<eos>"],))
PROMPT_IDS = (VOCAB["s"], VOCAB["="])


class Counting:
    """Answers `ab` behind each of the first turns, as often as it is told."""

    stop_strings: tuple[str, ...] = ("a", "z")

    def __init__(self, prompt, columns, num_answers=2):
        self.metrics = {"answers": 0}
        self._num_answers = num_answers
        self.seen = []

    def respond(self, transcript):
        self.seen.append(transcript)
        if self.metrics["answers"] == self._num_answers:
            return None
        self.metrics["answers"] += 1
        return "ab"


def ask(episodes: Episodes, *numbers: int, sampling: SamplingSpec = SAMPLING):
    """How the requests of these numbers ended, in their order."""
    for number in numbers:
        episodes.begin(
            EpisodesRequest(f"task-{number}", "s=", PROMPT_IDS, {}, 100 * number, sampling)
        )
    found: dict[str, EpisodesEnded | EpisodesFailed] = {}

    def all_over() -> bool:
        found.update({ended.id: ended for ended in episodes.step().ended})
        return len(found) == len(numbers)

    wait_until(all_over)
    return [found[f"task-{number}"] for number in numbers]


def assert_turns_agree(model: torch.nn.Module, requests: list[EpisodesEnded]) -> None:
    """All turns of an episode have the log-probs of one plain forward; inserted tokens have 0."""
    num_prompt_tokens, num_turns = len(PROMPT_IDS), 0
    for ended in requests:
        for episode in ended.episodes:
            token_ids = torch.tensor(episode.token_ids)
            with torch.no_grad():
                logits_TV = model(torch.tensor([[*PROMPT_IDS, *episode.token_ids]])).logits[0]
            logprobs_TV = torch.log_softmax(logits_TV, dim=-1)[num_prompt_tokens - 1 : -1]
            expected_T = logprobs_TV.gather(-1, token_ids[:, None])[:, 0]
            for span in episode.inserted_spans:
                expected_T[span.start : span.stop] = 0.0
            actual_T = torch.tensor(episode.logprobs)
            torch.testing.assert_close(actual_T, expected_T, atol=1e-4, rtol=0)
            num_turns += len(episode.turns)
    assert num_turns > sum(len(ended.episodes) for ended in requests)
