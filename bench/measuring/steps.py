"""The learner's step and a plain one on the same tokens, each with a model of its own."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from volley.learner.policy import Policy
from volley.learner.settings import Settings
from volley.learner.tiny_model import make_tokenizer
from volley.learner.update import Update
from volley.schemas.groups import (
    SCHEMA_VERSION,
    Group,
    StopReason,
    Trajectory,
    Version,
    VersionSpan,
    pack_logprobs,
    pack_token_ids,
)

NUM_GENERATIONS = 8
LEARNING_RATE = 1e-5
HEAD = Version(1, 0)
# What a plain cross entropy leaves out.
NO_TARGET = -100


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model and of one step's groups of eight."""

    name: str
    num_groups: int
    num_prompt_tokens: int
    num_completion_tokens: int
    vocab_size: int
    hidden_size: int
    num_layers: int

    @property
    def num_samples(self) -> int:
        return self.num_groups * NUM_GENERATIONS

    @property
    def num_tokens(self) -> int:
        return self.num_samples * (self.num_prompt_tokens + self.num_completion_tokens)


def save_model(shape: Shape, folder: Path) -> None:
    """Write a random model of this shape; its tokenizer is the sort demo's."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=2 * shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=shape.num_prompt_tokens + shape.num_completion_tokens,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def make_step(shape: Shape, folder: Path) -> Callable[[], None]:
    """The learner's step."""
    settings = Settings.model_validate(
        {
            "model": {"path": str(folder), "dtype": "float32"},
            "data": {"train": "not-read.jsonl"},
            "sampling": {"num_generations": NUM_GENERATIONS},
            "optim": {"learning_rate": LEARNING_RATE},
        }
    )
    update = Update(Policy.load(settings.model, "cpu"), settings)
    groups = _random_groups(shape)

    def step() -> None:
        result = update.step(groups, HEAD)
        assert result.metrics["num_sequences"] == shape.num_samples

    return step


def make_plain_step(shape: Shape, folder: Path) -> Callable[[], None]:
    """What transformers and torch do without any of our code: one padded batch, all its logits."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    input_ids = torch.tensor(
        [
            group.prompt_ids + one.token_ids
            for group in _random_groups(shape)
            for one in group.trajectories
        ]
    )
    labels = input_ids.clone()
    labels[:, : shape.num_prompt_tokens] = NO_TARGET

    def step() -> None:
        model(input_ids=input_ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _random_groups(shape: Shape) -> list[Group]:
    """Groups that all have a signal; always the same ones."""
    randomness = random.Random(0)

    def token_ids(num_tokens: int) -> list[int]:
        return [randomness.randrange(3, shape.vocab_size) for _ in range(num_tokens)]

    def trajectory(reward: float) -> Trajectory:
        return Trajectory(
            token_bytes=pack_token_ids(token_ids(shape.num_completion_tokens)),
            logprob_bytes=pack_logprobs([-4.0] * shape.num_completion_tokens),
            version_spans=(VersionSpan(shape.num_completion_tokens, HEAD),),
            inserted_spans=(),
            stop_reason=StopReason.STOP,
            text="",
            rewards=(reward,),
        )

    return [
        Group(
            schema_version=SCHEMA_VERSION,
            run="bench",
            number=number,
            attempt=0,
            worker="bench",
            prompt_ids=tuple(token_ids(shape.num_prompt_tokens)),
            trajectories=tuple(trajectory(float(index % 2)) for index in range(NUM_GENERATIONS)),
        )
        for number in range(shape.num_groups)
    ]
