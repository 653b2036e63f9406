"""Tiny models, as folders for the engine and as plain models to compare with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from tests.tiny_models import CONTEXT_LENGTH, load_plain, save_tiny_gpt2, save_tiny_qwen3
from volley.rollout.engine_transformers import TransformersEngine


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def model(model_folder: Path) -> PreTrainedModel:
    return load_plain(model_folder)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def gpt2(gpt2_folder: Path) -> PreTrainedModel:
    return load_plain(gpt2_folder)


@pytest.fixture
def engine(model_folder: Path) -> Iterator[TransformersEngine]:
    """Room for 16 sequences; no weights yet."""
    engine = TransformersEngine(model_folder, "float32", "cpu", 16, CONTEXT_LENGTH)
    yield engine
    engine.close()
