"""TensorBoard: event files in the run folder, `tensorboard --logdir RUN_DIR`."""

from collections.abc import Mapping

import tomli_w
from torch.utils.tensorboard import SummaryWriter

from volley.learner.tracker import TrackedRun


class TensorboardTracker:
    """A Tracker that writes to `tensorboard/` of the run folder."""

    def __init__(self, run: TrackedRun) -> None:
        # Steps from there on that a learner had told before it died are not shown.
        folder = str(run.folder / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=run.next_step)
        self._writer.add_text("config", f"```toml\n{tomli_w.dumps(run.config)}```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
