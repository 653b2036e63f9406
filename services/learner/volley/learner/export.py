"""A checkpoint as a Hugging Face folder, for transformers, vLLM and the rest of the world."""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from volley.learner.checkpoint import Checkpoint, Checkpoints
from volley.learner.masters import cast_masters
from volley.learner.policy import Policy
from volley.learner.run_folder import after_cold_start
from volley.learner.settings import Settings, load_settings
from volley.telemetry.stops import ExitCode, Stop

logger = logging.getLogger(__name__)


def export(
    run_folder: Path, out: Path, step: int | None = None, *, adapters_alone: bool = False
) -> None:
    """Write the model of a checkpoint (the newest, or the one at `step`) to the new folder `out`.

    Adapters are added into it, or written alone. Only reads the run folder, so the run may go on
    meanwhile. Raises Stop; then `out` is not there.
    """
    if out.exists() and any(out.iterdir()):
        raise Stop(
            ExitCode.CONFIG, f"OUT: {out} is not empty: give a folder that does not exist yet"
        )
    settings = _settings_of(run_folder)
    if adapters_alone and settings.model.lora_r is None:
        raise Stop(
            ExitCode.CONFIG, f"--adapter: {run_folder} trained the whole model (no model.lora_r)"
        )
    checkpoint = _find(run_folder, settings, step)
    model = settings.model
    policy = Policy.load(model, "cpu")
    try:
        cast_masters(checkpoint.tensors(), policy.parameters())
    except ValueError as error:
        raise Stop(
            ExitCode.CONFIG,
            f"model.path: {model.path} is not the model that {run_folder} trained: {error}",
        ) from error
    _save(policy.save_adapters if adapters_alone else policy.save_pretrained, out)
    state = checkpoint.state
    logger.info("exported", extra={"step": state.version.step, "root": state.root, "to": str(out)})


def _settings_of(run_folder: Path) -> Settings:
    config = run_folder / "config.toml"
    if not config.exists():
        raise Stop(
            ExitCode.CONFIG,
            f"RUN_DIR: {run_folder} holds no run: give a folder like runs/<name>-<time>",
        )
    return after_cold_start(load_settings(config, environment={}), run_folder)


def _find(run_folder: Path, settings: Settings, step: int | None) -> Checkpoint:
    steps: list[int] = []
    for checkpoint in Checkpoints(run_folder / "checkpoints", settings.checkpoint.keep).valid():
        if step in (None, checkpoint.state.version.step):
            return checkpoint
        steps.append(checkpoint.state.version.step)
    if not steps:
        raise Stop(
            ExitCode.CONFIG,
            f"RUN_DIR: {run_folder} has no whole checkpoint: one is saved every "
            f"{settings.checkpoint.every_steps} steps (checkpoint.every_steps) and at a clean stop",
        )
    raise Stop(
        ExitCode.CONFIG,
        f"--step {step} has no checkpoint; these steps have: {', '.join(map(str, sorted(steps)))}",
    )


def _save(save: Callable[[Path], None], out: Path) -> None:
    """Give the folder its name when it is whole; never replaces anything."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            folder = Path(temporary) / "model"
            save(folder)
            folder.rename(out)
    except (OSError, SafetensorError) as error:
        raise Stop(ExitCode.ENVIRONMENT, f"OUT: cannot write {out}: {error}") from error
