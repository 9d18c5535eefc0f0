"""What this process runs on: torch, devices and what they can do, notebooks, the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
from packaging.version import Version

# -- torch and devices -----------------------------------------------------------------------------------------------


def is_torch_available() -> bool:
    """Always: omniform is made of it."""
    return True


def is_tf_available() -> bool:
    """Never asked for: omniform is torch's."""
    return False


is_flax_available = is_jax_available = is_torch_fx_available = is_tf_available


def get_torch_version() -> str:
    """Torch's release, as it says it."""
    return str(torch.__version__)


def is_torch_greater_or_equal(library_version: str, accept_dev: bool = False) -> bool:
    """Whether torch is not older; ``accept_dev``: what comes before a release counts as it."""
    return _torch_release(accept_dev) >= Version(library_version)


def is_torch_less_or_equal(library_version: str, accept_dev: bool = False) -> bool:
    """Whether torch is not newer; ``accept_dev``: what comes before a release counts as it."""
    return _torch_release(accept_dev) <= Version(library_version)


def _torch_release(accept_dev: bool) -> Version:
    found = Version(torch.__version__)
    return Version(found.base_version) if accept_dev else Version(found.public)


def is_torch_distributed_available() -> bool:
    """Whether torch can speak with other processes."""
    return torch.distributed.is_available()


def is_torch_accelerator_available() -> bool:
    """Whether torch has its one interface to accelerators; not whether there is any."""
    return True


def is_torch_cuda_available() -> bool:
    """Whether there is a GPU of NVIDIA's or AMD's."""
    return torch.cuda.is_available()


def is_cuda_platform() -> bool:
    """Whether torch is built for NVIDIA's GPUs."""
    return torch.version.cuda is not None


def is_rocm_platform() -> bool:
    """Whether torch is built for AMD's GPUs."""
    return torch.version.hip is not None


def is_torch_mps_available(min_version: str | None = None) -> bool:
    """Whether there is a GPU of Apple's, and torch is not older than ``min_version``."""
    return torch.backends.mps.is_available() and (min_version is None or is_torch_greater_or_equal(min_version))


def is_torch_xpu_available(check_device: bool = False) -> bool:
    """Whether there is a GPU of Intel's."""
    return torch.xpu.is_available()


def _never(word: str) -> Callable[..., bool]:
    def available(check_device: bool = False, **more: bool) -> bool:
        return False

    available.__name__ = available.__qualname__ = f"is_torch_{word}_available"
    available.__doc__ = "No: omniform runs on CPUs, CUDA, ROCm, MPS and XPU."
    return available


is_torch_hpu_available = _never("hpu")
is_torch_mlu_available = _never("mlu")
is_torch_musa_available = _never("musa")
is_torch_neuron_available = _never("neuron")
is_torch_neuroncore_available = _never("neuroncore")
is_torch_npu_available = _never("npu")
is_torch_tpu_available = _never("tpu")
is_torch_xla_available = _never("xla")


def is_fsdp_available(min_version: str = "1.12.0") -> bool:
    """Whether torch can shard a model over processes."""
    return is_torch_distributed_available() and is_torch_greater_or_equal(min_version)


def is_grouped_mm_available() -> bool:
    """Whether torch multiplies groups of matrices at once."""
    return is_torch_greater_or_equal("2.9.0")


def is_torch_flex_attn_available() -> bool:
    """Whether torch has flex attention."""
    return True


def is_torch_bf16_gpu_available() -> bool:
    """Whether there is an accelerator that computes in bfloat16."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def is_torch_tf32_available() -> bool:
    """Whether there is a GPU that computes in TF32."""
    return torch.cuda.is_available() and is_cuda_platform() and torch.cuda.get_device_capability() >= (8, 0)


def _multiplies(dtype: torch.dtype, device: str) -> bool:
    try:
        ones = torch.zeros(2, 2, dtype=dtype, device=device)
        return bool((ones @ ones).sum().isfinite())
    except (RuntimeError, AssertionError):  # torch says both where a device or its kernel is missing
        return False


def is_torch_fp16_available_on_device(device: str) -> bool:
    """Whether a device multiplies matrices of float16."""
    return _multiplies(torch.float16, device)


def is_torch_bf16_available_on_device(device: str) -> bool:
    """Whether a device multiplies matrices of bfloat16."""
    return (device != "cuda" and _multiplies(torch.bfloat16, device)) or is_torch_bf16_gpu_available()


def is_torch_deterministic() -> bool:
    """Whether torch was told to compute the same each time."""
    return torch.get_deterministic_debug_mode() != 0


def is_torchdynamo_compiling() -> bool:
    """Whether this is being compiled."""
    return torch.compiler.is_compiling()


def is_torchdynamo_exporting() -> bool:
    """Whether this is being exported."""
    return torch.compiler.is_exporting()


def get_available_devices() -> frozenset[str]:
    """Kinds of devices that are there."""
    kinds = {"cuda": is_torch_cuda_available, "mps": is_torch_mps_available, "xpu": is_torch_xpu_available}
    return frozenset({"cpu", *(kind for kind, there in kinds.items() if there())})


# -- where this runs -------------------------------------------------------------------------------------------------


def is_in_notebook() -> bool:
    """Whether this runs in a notebook's kernel."""
    shell = sys.modules.get("IPython")
    if shell is None:
        return False
    running = shell.get_ipython()
    return running is not None and "IPKernelApp" in running.config


def is_sagemaker_mp_enabled() -> bool:
    """No: omniform does not know SageMaker's own parallelism."""
    return False


is_sagemaker_dp_enabled = is_sagemaker_mp_enabled


def is_training_run_on_sagemaker() -> bool:
    """Whether SageMaker started this."""
    return "SAGEMAKER_JOB_NAME" in os.environ


def is_env_variable_true(env_variable: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(env_variable, "false").lower() in ("true", "1", "y", "yes", "on")


def is_env_variable_false(env_variable: str) -> bool:
    """Whether a variable of the environment says no."""
    return os.environ.get(env_variable, "true").lower() in ("false", "0", "n", "no", "off")


__all__ = [
    "get_available_devices",
    "get_torch_version",
    "is_cuda_platform",
    "is_env_variable_false",
    "is_env_variable_true",
    "is_flax_available",
    "is_fsdp_available",
    "is_grouped_mm_available",
    "is_in_notebook",
    "is_jax_available",
    "is_rocm_platform",
    "is_sagemaker_dp_enabled",
    "is_sagemaker_mp_enabled",
    "is_tf_available",
    "is_torch_accelerator_available",
    "is_torch_available",
    "is_torch_bf16_available_on_device",
    "is_torch_bf16_gpu_available",
    "is_torch_cuda_available",
    "is_torch_deterministic",
    "is_torch_distributed_available",
    "is_torch_flex_attn_available",
    "is_torch_fp16_available_on_device",
    "is_torch_fx_available",
    "is_torch_greater_or_equal",
    "is_torch_hpu_available",
    "is_torch_less_or_equal",
    "is_torch_mlu_available",
    "is_torch_mps_available",
    "is_torch_musa_available",
    "is_torch_neuron_available",
    "is_torch_neuroncore_available",
    "is_torch_npu_available",
    "is_torch_tf32_available",
    "is_torch_tpu_available",
    "is_torch_xla_available",
    "is_torch_xpu_available",
    "is_torchdynamo_compiling",
    "is_torchdynamo_exporting",
    "is_training_run_on_sagemaker",
]
