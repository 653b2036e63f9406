"""What vLLM is told about memory."""

from pathlib import Path

import pytest

from volley.rollout.settings import VllmSettings

pytestmark = [pytest.mark.usefixtures("vllm"), pytest.mark.filterwarnings("ignore")]


def test_vllm_starts_on_a_gpu_that_is_mostly_taken(tmp_path: Path):
    from vllm.config import CacheConfig
    from vllm.utils.mem_utils import MemorySnapshot
    from vllm.v1.worker.utils import request_memory

    from volley.rollout.vllm_arguments import engine_arguments

    arguments = engine_arguments(tmp_path, "bfloat16", "cuda", 256, 1024, VllmSettings())
    assert arguments.kv_cache_memory_bytes == 4 * 2**30
    gpu = MemorySnapshot(total_memory=80 * 2**30, free_memory=8 * 2**30, auto_measure=False)
    with pytest.raises(ValueError, match="less than desired GPU memory utilization"):
        request_memory(gpu, CacheConfig())
    share = arguments.gpu_memory_utilization
    assert request_memory(gpu, CacheConfig(gpu_memory_utilization=share)) < 2**30
