"""A learner without queue and server: groups of a script in, steps, log and checkpoints out."""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from tests.builders import make_group, make_trajectory
from volley.learner.history import History, Reached
from volley.learner.identity import identify, keep_config
from volley.learner.ledger import Changes, Ledger
from volley.learner.metrics_file import MetricsFile, MetricsLine
from volley.learner.policy import Policy
from volley.learner.recovery import Recovery
from volley.learner.replay import Replay, recorded_settings
from volley.learner.run_folder import RunFolder
from volley.learner.run_spec import group_limits
from volley.learner.settings import Settings, load_settings
from volley.learner.step_log import Outcome
from volley.learner.update import StepResult, Update
from volley.learner.weight_store import root_of_tensors
from volley.schemas.groups import Group, Version

CONFIG = """
[run]
name = "solo"
[model]
path = "{model}"
dtype = "{dtype}"
[data]
train = "train.jsonl"
[sampling]
num_generations = 2
max_completion_length = 8
[optim]
learning_rate = 1e-2
groups_per_step = 2
micro_batch_tokens = 8
[checkpoint]
min_free_bytes = 0
keep = 2
keep_all_steps = true
[devices]
learner = "cpu"
"""


def write_config(folder: Path, model: Path, dtype: str = "float32") -> Path:
    """A config whose runs take one group in a micro-batch."""
    (folder / "train.jsonl").write_text('{"prompt": "sort ba="}\n')
    path = folder / "config.toml"
    path.write_text(CONFIG.format(model=model, dtype=dtype))
    return path


def group_of(number: int, run: str, rewards: Sequence[float] = (1.0, 0.0)) -> Group:
    """Two completions that no other number has."""
    ids = [3 + (number * 7 + place) % 28 for place in range(4)]
    trajectories = [
        make_trajectory([reward], token_ids=token_ids)
        for reward, token_ids in zip(rewards, (ids, [*reversed(ids), 1]), strict=True)
    ]
    return make_group(number=number, run=run, trajectories=trajectories)


class SoloLearner:
    """One start of a learner: begins where the folder says the run was."""

    def __init__(
        self,
        config: Path,
        *overrides: str,
        rewind: bool = False,
        stopping: threading.Event | None = None,
    ) -> None:
        settings = load_settings(config, overrides, environment={})
        self.folder = RunFolder(config.parent / "run")
        try:
            self._begin(settings, rewind, stopping or threading.Event())
        except BaseException:
            self.die()
            raise

    def _begin(self, settings: Settings, rewind: bool, stopping: threading.Event) -> None:
        folder = self.folder
        torch.set_num_threads(1)
        torch.manual_seed(settings.run.seed)
        self.policy = policy = Policy.load(settings.model, "cpu")
        start_root = root_of_tensors(policy.published_tensors())
        fingerprints = keep_config(
            settings, folder, identify(settings, folder, start_root, (), None)
        )
        self.update = Update(policy, settings)
        self.history = History(folder, settings.checkpoint, fingerprints)
        replay = Replay(
            *(policy, self.update, group_limits(settings, policy.vocab_size, folder.run)),
            partial(self._settings_of, settings),
        )
        self.epoch = folder.epoch() + 1
        folder.enter_epoch(self.epoch)
        self.told: list[str] = []
        self.recovery = Recovery(self.history, replay, self.epoch, rewind=rewind)
        self.reached = self.recovery.run(
            Reached(Version(self.epoch, 0), start_root), stopping, self._tell
        )
        self.update.adopt(settings)
        self.ledger = Ledger.of(self.reached.ledger)
        self._metrics = MetricsFile(folder.metrics)
        self._metrics.rewrite(
            MetricsLine(one.version, one.root, one.metrics) for one in self.outcomes if one.applied
        )

    def _settings_of(self, settings: Settings, config: str) -> Settings:
        return recorded_settings(self.folder.config(config), settings)

    def _tell(self, how_far: str) -> None:
        self.told.append(how_far)

    @property
    def outcomes(self) -> list[Outcome]:
        """Of all logged steps that are concluded."""
        log = self.history.log
        found = (log.outcome(place) for place in log.places())
        return [outcome for outcome in found if outcome is not None]

    @property
    def root(self) -> str:
        """Of the weights at hand."""
        return root_of_tensors(self.policy.published_tensors())

    def log(self, *groups: Group) -> None:
        """Issue the groups' numbers, and put the groups on the disk."""
        highest = max(group.number for group in groups)
        self.ledger.issue(highest + 1 - self.ledger.counts().issued)
        self.history.append(groups, self.reached.version, Changes({}, {}), self.ledger.state())
        self._groups = groups

    def train(self) -> StepResult:
        """Train what was logged."""
        place = self.history.place
        return self.update.step(
            self._groups,
            self.reached.version,
            before_batch=lambda numbers: self.history.mark.name(place, numbers),
        )

    def conclude(self, result: StepResult) -> None:
        """Put on the disk what became of it."""
        record = self.history.log.read(self.history.place)
        version, root = self.reached.version, self.reached.root
        if result.applied:
            version, root = Version(self.epoch, record.place.step), self.root
        outcome = self.history.conclude(result, version, root)
        self.reached.follow(record, outcome, self._groups)
        self.ledger = Ledger.of(self.reached.ledger)
        if outcome.applied:
            self._metrics.append(MetricsLine(version, root, outcome.metrics))

    def save(self) -> None:
        """A checkpoint."""
        self.history.save(self.reached, self.update.tensors())

    def take(self, *numbers: int) -> None:
        """A whole step."""
        self.log(*(group_of(number, self.folder.run) for number in numbers))
        self.conclude(self.train())

    def die(self) -> None:
        """Let go of the folder, as the end of a process does."""
        self.folder.close()
