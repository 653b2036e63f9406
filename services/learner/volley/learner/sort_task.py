"""What the sort demo starts from: data, a tiny model after a cold start, and the run's config.

Prompt `sort qhzbtwea=`, answer `abehqtwz`. Every row is a different letter sequence, so nobody
meets a held-out prompt before the evaluation.

    untrained/              Qwen3, 303,872 parameters, one token per character
    demonstrations.jsonl    prompt and completion, for the cold start
    train.jsonl             prompt and answer, for GRPO
    held_out.jsonl          prompt and answer, for the evaluations
    start/                  the model after the cold start, which GRPO starts from
    config.toml             of the GRPO run; written last, so where it is, all is
"""

import json
import random
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.learner.supervised import FineTuningRules, fine_tune, read_demonstrations

NUM_LETTERS = 8
NUM_DEMONSTRATIONS = 2_000
NUM_TRAIN = 16_000
NUM_HELD_OUT = 500

SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
CHARACTERS = string.ascii_lowercase + string.digits + " =?:+-*/.,;()!'_\n"
TAGS = tuple(
    f"<{slash}{name}>"
    for name in ("search", "information", "think", "answer")
    for slash in ("", "/")
)
CONTEXT_LENGTH = 128

CONFIG = """\
# The sort demo's run; change it as you like, then `volley run` it.
[run]
name = "sort"
steps = {steps}
seed = {seed}
[model]
path = "./start"              # after the cold start
dtype = "float32"
[data]
train = "train.jsonl"         # {{"prompt": "sort qhzbtwea=", "answer": "abehqtwz"}}
[sampling]
num_generations = 8
temperature = 1.0
max_completion_length = 10
[reward]
functions = ["exact_match"]   # 1 where the completion is the answer, else 0
[loss]
loss_type = "dapo"
beta = 0.0
epsilon = 0.2
epsilon_high = 0.28
[optim]
groups_per_step = 32
learning_rate = 5e-4
lr_scheduler_type = "linear"
min_lr_rate = 0.1
warmup_steps = 20
micro_batch_tokens = 2048     # small batches stay in a CPU's cache
[queue]
max_staleness = 2
[devices]
learner = "cpu"
rollout = ["cpu"]
engine = "{engine}"
[logging]
sample_every = 50
"""

EXAMPLE = """
Example:

python -m volley.learner.sort_task task/ --steps 400
"""


def sort_task(
    folder: Annotated[Path, typer.Argument(help="Where to write it all.")],
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps of the run.")] = 400,
    engine: Annotated[
        Literal["auto", "transformers", "vllm"], typer.Option(help="Of `volley run`'s workers.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the data, the model and the run.")] = 0,
) -> None:
    """Write data, model and config of the sort demo."""
    folder.mkdir(parents=True, exist_ok=True)
    write_data(folder, seed)
    save_model(folder / "untrained", seed)
    start_warm(folder, seed)
    config = CONFIG.format(steps=steps, seed=seed, engine=engine)
    (folder / "config.toml").write_text(config, encoding="utf-8")


def write_data(folder: Path, seed: int) -> None:
    """Write the three data files, without a letter sequence in common."""
    letters = distinct_letters(random.Random(seed))
    for name, answer_column, num_rows in (
        ("held_out", "answer", NUM_HELD_OUT),
        ("demonstrations", "completion", NUM_DEMONSTRATIONS),
        ("train", "answer", NUM_TRAIN),
    ):
        rows = (row_of(next(letters), answer_column) for _ in range(num_rows))
        write_jsonl(folder / f"{name}.jsonl", rows)


def distinct_letters(randomness: random.Random) -> Iterator[str]:
    """Letters to sort, without a repetition inside a sequence or of a whole one."""
    seen: set[str] = set()
    while True:
        letters = "".join(randomness.sample(string.ascii_lowercase, NUM_LETTERS))
        if letters not in seen:
            seen.add(letters)
            yield letters


def row_of(letters: str, answer_column: str) -> dict[str, str]:
    """One line of a data file."""
    return {"prompt": f"sort {letters}=", answer_column: "".join(sorted(letters))}


def write_jsonl(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def save_model(folder: Path, seed: int) -> None:
    """Write a model that knows nothing, and its tokenizer, as a Hugging Face folder."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # vLLM's attention on CPUs takes no less
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.04,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """64 tokens: one per character, and the tags that the multi-turn demo speaks in."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *CHARACTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_tokens(list(TAGS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=CONTEXT_LENGTH,
    )


def start_warm(folder: Path, seed: int) -> None:
    """Show the untrained model some right answers, so that there is something to reward."""
    untrained = ModelSettings(path=str(folder / "untrained"), dtype="float32")
    policy = Policy.load(untrained, "cpu")
    demonstrations = read_demonstrations(folder / "demonstrations.jsonl", policy)
    rules = FineTuningRules(
        num_steps=64, learning_rate=1e-3, batch_size=64, warmup_steps=50, seed=seed
    )
    for _ in fine_tune(policy, demonstrations, rules):
        pass
    policy.save_pretrained(folder / "start")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLE)(sort_task)
    app()
