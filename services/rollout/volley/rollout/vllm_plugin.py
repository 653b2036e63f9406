"""What vLLM loads into every one of its processes: our weight transfer, and cures for CPUs.

pyproject names `register` under `vllm.general_plugins`.
"""

from contextlib import suppress

from volley.rollout.vllm_environment import quieten

WEIGHT_TRANSFER = "volley"


def register() -> None:
    """Make `WEIGHT_TRANSFER` known to vLLM; does no harm when it is called twice."""
    quieten()
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory
    from vllm.platforms import current_platform

    # Registered already, vLLM says with a ValueError.
    with suppress(ValueError):
        WeightTransferEngineFactory.register_engine(
            WEIGHT_TRANSFER, "volley.rollout.weight_transfer", "VerifiedWeightTransfer"
        )
    if current_platform.is_cpu():
        _keep_weights_where_they_are()


def _keep_weights_where_they_are() -> None:
    """Have linear layers compute with `layer.weight` itself, not with a packed copy of it.

    On CPUs vLLM copies weights into the layouts of oneDNN and of its own kernels when a model
    is loaded. An embedding that is tied to the head gets new weights at a swap, the head's copy
    keeps the old ones, and nothing complains. To be removed when vLLM packs a tied head again
    after a reload: the tests of engine_vllm with tied embeddings pass without it then.
    """
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils

    _custom_ops._supports_onednn = False
    utils._CPU_SGL_GEMM_MAX_WEIGHT_BYTES = 0
