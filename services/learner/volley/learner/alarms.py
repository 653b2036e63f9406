"""Does the run look as if it goes wrong? Alarms about the metrics of one step after the other.

    kl          learner and sampler disagree about the same tokens
    mismatch    they do so although both have the same weights
    samples     a few tokens have almost all of the importance weight
    corrected   most tokens are truncated or masked for being off-policy
    entropy     the policy has become almost certain of everything
    ratio       single tokens outweigh all others
    no_signal   hardly any group has two different rewards
    reward      it was much better once

An alarm is raised after `patience` steps in a row over its limit, and again after as many more. A
step without the metric is not counted. All state comes from the metrics, so the alarms of a run
that is resumed are those that have looked at the rows of its metrics.jsonl.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from statistics import fmean, pstdev

from volley.learner.alarm_settings import AlarmName, AlarmsSettings

REWARD_STEPS = 20
"""Steps over which the reward is averaged."""
NOISE = 2.5
"""A fall of the reward counts when it exceeds so many standard deviations between steps."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should look at."""

    name: AlarmName
    message: str
    stops: bool
    """The run is to end, not only to warn."""
    patience: int
    """Steps after which it is raised again, if nothing has changed."""


class Alarms:
    """The alarms of one run, which looks at each step once and in order."""

    def __init__(self, settings: AlarmsSettings) -> None:
        self._settings = settings
        self._num_in_a_row: Counter[AlarmName] = Counter()
        self._first_entropy: float | None = None
        self._rewards: deque[float] = deque(maxlen=REWARD_STEPS)
        self._best_reward = -inf
        self._checks: dict[AlarmName, tuple[str, Callable[[float], str | None]]] = {
            "kl": ("kl", self._kl),
            "mismatch": ("mismatch_kl", self._mismatch),
            "samples": ("effective_sample_share", self._samples),
            "corrected": ("corrected_share", self._corrected),
            "entropy": ("entropy", self._entropy),
            "ratio": ("ratio_max", self._ratio),
            "no_signal": ("no_signal_share", self._no_signal),
            "reward": ("reward_mean", self._reward),
        }

    def look(self, metrics: Mapping[str, float | None]) -> list[Alarm]:
        """The alarms that this step raises."""
        raised = []
        for name, (metric, check) in self._checks.items():
            value = metrics.get(metric)
            if value is None:
                continue
            trouble = check(value)
            self._num_in_a_row[name] = self._num_in_a_row[name] + 1 if trouble else 0
            if trouble and self._num_in_a_row[name] % self._settings.patience == 0:
                raised.append(self._alarm(name, trouble))
        return raised

    def _alarm(self, name: AlarmName, trouble: str) -> Alarm:
        message = f"alarm {name}, for {self._num_in_a_row[name]} steps: {trouble}"
        stops = name in self._settings.stop_on
        return Alarm(name, message, stops, self._settings.patience)

    def _kl(self, kl: float) -> str | None:
        if kl <= (self._settings.max_kl or inf):
            return None
        return (
            f"kl {kl:.3g} is above alarms.max_kl = {self._settings.max_kl:g}: learner and sampler "
            "disagree about the same tokens. Lower optim.learning_rate or queue.max_staleness, and "
            "let engine and learner use the same model.dtype"
        )

    def _mismatch(self, kl: float) -> str | None:
        if kl <= (self._settings.max_mismatch_kl or inf):
            return None
        return (
            f"mismatch_kl {kl:.3g} is above alarms.max_mismatch_kl = "
            f"{self._settings.max_mismatch_kl:g}: engine and learner disagree about tokens of the "
            "same weights. Let both use the same model.dtype, see that the engine supports the "
            "model, or leave such tokens out with loss.off_policy_mask"
        )

    def _samples(self, share: float) -> str | None:
        if share >= self._settings.min_effective_sample_share:
            return None
        return (
            f"effective_sample_share {share:.3g} is below alarms.min_effective_sample_share = "
            f"{self._settings.min_effective_sample_share:g}: a few tokens decide the gradient. "
            "Lower queue.max_staleness or optim.learning_rate, or loss.importance_sampling_clip_max"
        )

    def _corrected(self, share: float) -> str | None:
        if share <= (self._settings.max_corrected_share or inf):
            return None
        return (
            f"corrected_share {share:.3g} is above alarms.max_corrected_share = "
            f"{self._settings.max_corrected_share:g}: most of what is sampled is truncated or "
            "masked. Lower queue.max_staleness, or widen loss.off_policy_mask_low and _high"
        )

    def _entropy(self, entropy: float) -> str | None:
        if self._first_entropy is None:
            self._first_entropy = entropy
        limit = self._settings.min_entropy_share * self._first_entropy
        if entropy >= limit:
            return None
        return (
            f"entropy {entropy:.3g} is below {limit:.3g}, alarms.min_entropy_share = "
            f"{self._settings.min_entropy_share:g} of its start: the policy hardly explores. Lower "
            "optim.learning_rate or loss.num_iterations, or raise loss.epsilon_high"
        )

    def _ratio(self, ratio: float) -> str | None:
        if ratio <= (self._settings.max_ratio or inf):
            return None
        return (
            f"ratio_max {ratio:.3g} is above alarms.max_ratio = {self._settings.max_ratio:g}: "
            "single tokens outweigh all others. Lower optim.learning_rate or queue.max_staleness"
        )

    def _no_signal(self, share: float) -> str | None:
        if share <= (self._settings.max_no_signal_share or inf):
            return None
        return (
            f"no_signal_share {share:.3g} is above alarms.max_no_signal_share = "
            f"{self._settings.max_no_signal_share:g}: nothing is left to learn from. Give easier "
            "prompts if reward_mean is low, harder ones if it is high, and see that the reward is "
            "not constant"
        )

    def _reward(self, reward: float) -> str | None:
        self._rewards.append(reward)
        if len(self._rewards) < REWARD_STEPS:
            return None
        mean = fmean(self._rewards)
        self._best_reward = max(self._best_reward, mean)
        allowed = (self._settings.max_reward_drop or inf) * abs(self._best_reward)
        # Around 0 a share means nothing, so the fall must stand out from the noise as well.
        if self._best_reward - mean <= max(allowed, NOISE * pstdev(self._rewards)):
            return None
        return (
            f"reward_mean, over {REWARD_STEPS} steps {mean:.3g}, has lost more than "
            f"alarms.max_reward_drop = {self._settings.max_reward_drop:g} of its best "
            f"{self._best_reward:.3g}: look at what is rewarded now, lower optim.learning_rate, or "
            "go back to an earlier checkpoint"
        )
