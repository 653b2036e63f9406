"""Tiny models, as folders for the engine and as plain models to compare with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedModel, Qwen3ForCausalLM

from tests.tiny_models import CONTEXT_LENGTH, save_tiny_gpt2, save_tiny_qwen3
from volley.rollout.engine_transformers import TransformersEngine


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def model(model_folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = Qwen3ForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def gpt2(gpt2_folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = GPT2LMHeadModel.from_pretrained(gpt2_folder, dtype=torch.float32)
    return model.eval()


@pytest.fixture
def engine(model_folder: Path) -> Iterator[TransformersEngine]:
    """Room for 16 sequences; no weights yet."""
    engine = TransformersEngine(model_folder, "float32", "cpu", 16, CONTEXT_LENGTH)
    yield engine
    engine.close()
