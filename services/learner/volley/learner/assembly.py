"""A learner put together from its settings, run, and taken apart again."""

import json
import logging
import random
import sys
from pathlib import Path

import torch

from volley.learner.api import ApiServer, create_app
from volley.learner.loop import Loop, LoopRules
from volley.learner.policy import Policy
from volley.learner.prompts import read_prompts
from volley.learner.record import Record
from volley.learner.reward_code import read_reward_specs
from volley.learner.run_folder import RunFolder
from volley.learner.settings import Settings
from volley.learner.status import Progress, report_status
from volley.learner.tasks import TaskRules, Tasks
from volley.learner.update import Update
from volley.learner.weight_store import WeightStore
from volley.schemas.codec import GroupLimits
from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.schemas.run_spec import ModelFile, RunSpec, SamplingSpec
from volley.schemas.status import StatusReport
from volley.transport.redis_stream import LearnerQueue

logger = logging.getLogger(__name__)

# Resuming, and with it a second epoch, comes with the step log.
FIRST_VERSION = Version(1, 0)


def run_learner(
    settings: Settings, code_folder: Path, folder: RunFolder, redis_url: str, token: str
) -> None:
    """Train as the settings say; the folder holds the model and a summary afterwards."""
    rewards = read_reward_specs(settings.reward, code_folder)
    folder.write_config(settings)
    torch.set_num_threads(settings.devices.threads)
    torch.manual_seed(settings.run.seed)
    random.seed(settings.run.seed)
    policy = Policy.load(settings.model, settings.devices.learner)
    spec_of_run = _limits(settings, folder, policy)
