"""How new weights get into vLLM's model, in every process that holds a part of it.

    VllmEngine.load -> start_weight_update -> update_weights(weights) -> finish_weight_update
                                                    |
                  in this process: the tensors themselves; in others: a file, verified by its root

The model is reloaded layer by layer, which splits and fuses tensors as each process needs them.
An exception must not leave these methods: where there are several processes, vLLM would take
the answers that the others gave for those to its next call. `failure` is asked for instead.
"""

import logging
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from vllm.distributed.weight_transfer import WeightTransferEngine
from vllm.distributed.weight_transfer.base import (
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload.layerwise import (
    finalize_layerwise_reload,
    get_layerwise_info,
    initialize_layerwise_reload,
)
from vllm.v1.worker.worker_base import WorkerBase

from volley.rollout.model_tensors import tensors_in
from volley.transport.tensors import InvalidTensors, root_of

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")


class NewWeights(Protocol):
    """All tensors of a version, wherever they are."""

    def opened(self) -> AbstractContextManager[Mapping[str, torch.Tensor]]:
        """The tensors by name, valid inside."""
        ...


@dataclass(frozen=True, slots=True)
class WeightsInHand:
    """Tensors of the same process."""

    tensors: Mapping[str, torch.Tensor]

    def opened(self) -> AbstractContextManager[Mapping[str, torch.Tensor]]:
        return nullcontext(self.tensors)


@dataclass(frozen=True, slots=True)
class WeightsInFile:
    """Tensors that another process of this machine wrote."""

    path: Path
    root: str

    @contextmanager
    def opened(self) -> Iterator[Mapping[str, torch.Tensor]]:
        """Raises InvalidTensors where the file is not what was written."""
        content = _mapped(self.path)
        if root_of(content) != self.root:
            raise InvalidTensors(f"{self.path} does not have the root {self.root[:12]}")
        yield tensors_in(content)


@contextmanager
def shared_weights(tensors: Mapping[str, torch.Tensor], num_processes: int) -> Iterator[NewWeights]:
    """The tensors in a form that each of vLLM's processes can open while inside."""
    if num_processes == 1:
        yield WeightsInHand(tensors)
        return
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    with tempfile.TemporaryDirectory(prefix="volley-weights-", dir=_roomy(num_bytes)) as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(dict(tensors), path)
        yield WeightsInFile(path, root_of(_mapped(path)))


def _mapped(path: Path) -> memoryview:
    """The file's bytes, unmapped with the last view of them."""
    with path.open("rb") as file:
        # A private mapping, as PyTorch wants memory that can be written to.
        return memoryview(mmap(file.fileno(), 0, access=ACCESS_COPY))


def _roomy(num_bytes: int) -> Path | None:
    """Memory if there is room for twice as much, as vLLM needs some too; None for a disk."""
    roomy = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 2 * num_bytes
    return SHARED_MEMORY if roomy else None


@dataclass
class TransferInit(WeightTransferInitInfo):
    """Nothing is to be agreed on beforehand."""


@dataclass
class TransferUpdate(WeightTransferUpdateInfo):
    """What `update_weights` is given."""

    weights: NewWeights


class VerifiedWeightTransfer(WeightTransferEngine[TransferInit, TransferUpdate]):
    """Loads whole models, already verified, through vLLM's layerwise reload."""

    init_info_cls = TransferInit
    update_info_cls = TransferUpdate
    failure: str | None = None
    """Why the last update broke off; the model is then a mixture of versions."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        if multiprocessing.parent_process() is not None:
            # A part of a split model. Ctrl-C reaches it as well, but the worker that started it
            # has samples to finish, and takes it along in the end.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def init_transfer_engine(self, init_info: TransferInit) -> None:
        """Nothing to connect to."""

    def start_weight_update(self) -> None:
        self.failure = None
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: TransferUpdate) -> None:
        try:
            with update_info.weights.opened() as tensors:
                self.model.load_weights(tensors.items())
                # Here and not in finish_weight_update: layers that are not complete yet, as
                # padded ones, read their tensors now.
                finalize_layerwise_reload(self.model, self.model_config)
        except Exception as error:  # whatever it is, see the top of the file
            logger.exception("new weights could not be loaded")
            self.failure = f"{type(error).__name__}: {error}"
            self._give_up()

    def finish_weight_update(self) -> None:
        """Everything is in its place already."""

    def shutdown(self) -> None:
        """Nothing to disconnect from."""

    def _give_up(self) -> None:
        """Put the old tensors back into all layers that have no new ones yet.

        The next reload would leave alone a layer that this one has begun, with tensors in other
        memory than CUDA graphs read, and with what it was given counted twice.
        """
        for layer in self.model.modules():
            info = get_layerwise_info(layer)
            info.loaded_weights.clear()
            info.load_numel = 0
        finalize_layerwise_reload(self.model, self.model_config)


def failure_of(worker: WorkerBase) -> str | None:
    """Why the last update of one of vLLM's workers broke off, if it did."""
    failure: str | None = worker.weight_transfer_engine.failure
    return failure
