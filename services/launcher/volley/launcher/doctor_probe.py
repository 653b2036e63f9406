"""`python -m volley.launcher.doctor_probe [MODEL [REVISION]]`: tries the heavy libraries.

A process of its own, because a broken library may take seconds, hang or crash. It answers with a
line of JSON as soon as it knows one thing, so that the answers before a crash are not lost.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

import msgspec

from volley.launcher.sizing import ModelShape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL = "model"
MESSAGE_LENGTH = 200
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


class Device(msgspec.Struct, frozen=True):
    """An accelerator that torch can use."""

    name: str
    """As in [devices]: cuda:0"""
    product: str
    free_bytes: int
    total_bytes: int


class Torch(msgspec.Struct, frozen=True, tag="torch"):
    build: str
    """`CPU`, or `CUDA 13.0`."""
    num_threads: int
    devices: tuple[Device, ...]


class Usable(msgspec.Struct, frozen=True, tag="usable"):
    library: str


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    library: str
    reason: str


Answer = Torch | Usable | Broken | ModelShape


def probe(model: list[str]) -> Iterator[Answer]:
    """What can be said about the installed libraries, and about a model and its revision."""
    yield attempt("torch", look_at_torch)
    yield attempt("transformers", _look_at_transformers)
    if model:
        yield attempt(MODEL, lambda: look_at_model(*model))
    if importlib.util.find_spec("vllm"):
        yield attempt("vllm", _look_at_vllm)


def attempt(library: str, look: Callable[[], Answer]) -> Answer:
    """What `look` says; Broken where it raises anything at all."""
    try:
        return look()
    except Exception as error:  # whatever a broken installation raises is the answer
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {cause}".partition("\n")[0]
        return Broken(library, reason[:MESSAGE_LENGTH])


def look_at_torch() -> Torch:
    """Its build, and the devices that it finds."""
    import torch

    version = torch.version.cuda
    return Torch(
        build=f"CUDA {version}" if version else "CPU",
        num_threads=torch.get_num_threads(),
        devices=tuple(map(_device, range(torch.cuda.device_count()))),
    )


def _device(index: int) -> Device:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return Device(f"cuda:{index}", torch.cuda.get_device_name(index), free, total)


def _look_at_transformers() -> Usable:
    # A class of a model: the library itself imports even where no model does.
    importlib.import_module("transformers").LlamaForCausalLM  # noqa: B018 - imports it
    return Usable("transformers")


def _look_at_vllm() -> Usable:
    importlib.import_module("vllm").LLMEngine  # noqa: B018 - imports it
    return Usable("vllm")


def look_at_model(path: str, revision: str | None = None) -> ModelShape:
    """The shape that its configuration says, without weights and without a network."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, revision=revision, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    num_heads = text.num_attention_heads
    return ModelShape(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_layers=text.num_hidden_layers,
        linear_units=_linear_units(model),
        hidden_size=text.hidden_size,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or num_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // num_heads,
    )


def _linear_units(model: "PreTrainedModel") -> int:
    """Inputs and outputs of all linear maps but the head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return sum(
        sum(module.weight.shape)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    )


def _take_stdout() -> IO[bytes]:
    """The standard output for answers alone; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


if __name__ == "__main__":
    os.environ.update(QUIET)
    with _take_stdout() as answers:
        for answer in probe(sys.argv[1:]):
            answers.write(msgspec.json.encode(answer) + b"\n")
