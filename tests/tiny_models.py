"""Real models that fit in a test: a few thousand weights and a tokenizer each."""

import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHARACTERS = string.ascii_lowercase + " =>"
VOCAB = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {
    character: index for index, character in enumerate(CHARACTERS, start=3)
}
CONTEXT_LENGTH = 64


def save_tiny_qwen3(
    folder: Path,
    seed: int = 0,
    tied: bool = True,
    context_length: int = CONTEXT_LENGTH,
    sliding_window: int | None = None,
) -> Path:
    """A folder as `save_pretrained` writes it: one token per character."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(VOCAB),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=context_length,
        tie_word_embeddings=tied,
        use_sliding_window=sliding_window is not None,
        sliding_window=sliding_window,
        max_window_layers=1,
        # Ten times the default: logits that differ, so that wrong maths shows.
        initializer_range=0.2,
        pad_token_id=VOCAB["<pad>"],
        eos_token_id=VOCAB["<eos>"],
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tiny_chat_model(folder: Path) -> Path:
    """Room for instructions, and a template for messages."""
    save_tiny_qwen3(folder, context_length=1024)
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    )
    return folder


def load_plain(folder: Path) -> PreTrainedModel:
    """The model of a folder in float32, to compare with."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    return model


def save_tiny_gpt2(folder: Path, seed: int = 0) -> Path:
    """Learned positions and a dropout of 0.1: what Qwen3 does not have."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(VOCAB),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=CONTEXT_LENGTH,
        initializer_range=0.2,
        bos_token_id=VOCAB["<eos>"],
        eos_token_id=VOCAB["<eos>"],
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tiny_mixtral(folder: Path) -> Path:
    """Experts that are fused in memory and separate in the checkpoint."""
    config = MixtralConfig(
        vocab_size=len(VOCAB),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """One token per character; anything else is `<unk>`."""
    tokenizer = Tokenizer(WordLevel(VOCAB, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex("<eos>|."), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=CONTEXT_LENGTH,
    ).save_pretrained(folder)
