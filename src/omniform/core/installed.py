"""What is there: packages by the ecosystem's words for them.

A package counts as available when it can be found, in the release that is asked for where one is; nothing is imported
for the answer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from types import FunctionType
from typing import Final, Protocol

from packaging.version import InvalidVersion, Version

from omniform.core.errors import DependencyError, listed
from omniform.core.runtime import is_torch_cuda_available


class Available(Protocol):
    """Whether a package is installed, and not older than a release."""

    def __call__(self, min_version: str | None = None) -> bool: ...


_PACKAGES: Final = {
    "flash_linear_attention": "fla",
    "hadamard": "fast_hadamard_transform",
    "ipython": "IPython",
    "jinja": "jinja2",
    "levenshtein": "Levenshtein",
    "llm_awq": "awq",
    "lomo": "lomo_optim",
    "optimum_neuron": "optimum.neuron",
    "optimum_quanto": "optimum.quanto",
    "protobuf": "google.protobuf",
    "cython": "pyximport",
    "speech": "torchaudio",
    "spqr": "spqr_quant",
    "sudachi": "sudachipy",
    "sudachi_projection": "sudachipy",
    "torch_optimi": "optimi",
    "torch_tensorrt_fx": "torch_tensorrt.fx",
    "vision": "PIL",
}
"""Where the ecosystem's word for a package is not the name that it is imported by."""


def _installed(name: str) -> bool:
    with contextlib.suppress(ValueError, ImportError):
        return importlib.util.find_spec(name) is not None
    return False


def release_of(package: str) -> Version | None:
    """The release of an installed package, by the name that it is imported by; None where that cannot be told."""
    names = (package, *packages_distributions().get(package.partition(".")[0], ()))
    for name in names:
        with contextlib.suppress(PackageNotFoundError, InvalidVersion):
            return Version(version(name))
    return None


def _is_new_enough(name: str, minimum: str | None) -> bool:
    if not _installed(name):
        return False
    found = release_of(name) if minimum is not None else None
    return minimum is None or (found is not None and found >= Version(minimum))


def _asked(word: str, least: str | None = None) -> Available:
    name = _PACKAGES.get(word, word)

    def available(min_version: str | None = None) -> bool:
        return _is_new_enough(name, min_version or least)

    available.__name__ = available.__qualname__ = f"is_{word}_available"
    available.__doc__ = f"Whether the package {name} is installed, not older than ``min_version``."
    return available


is_accelerate_available = _asked("accelerate", "1.1.0")
is_apex_available = _asked("apex")
is_apollo_torch_available = _asked("apollo_torch")
is_aqlm_available = _asked("aqlm")
is_auto_round_available = _asked("auto_round", "0.5.0")
is_av_available = _asked("av")
is_bitsandbytes_available = _asked("bitsandbytes", "0.46.1")
is_bs4_available = _asked("bs4")
is_coloredlogs_available = _asked("coloredlogs")
is_compressed_tensors_available = _asked("compressed_tensors", "0.15.0")
is_cv2_available = _asked("cv2")
is_cython_available = _asked("cython")
is_datasets_available = _asked("datasets")
is_decord_available = _asked("decord")
is_detectron2_available = _asked("detectron2")
is_diffusers_available = _asked("diffusers")
is_einops_available = _asked("einops")
is_essentia_available = _asked("essentia")
is_executorch_available = _asked("executorch")
is_faiss_available = _asked("faiss")
is_fastapi_available = _asked("fastapi")
is_fbgemm_gpu_available = _asked("fbgemm_gpu")
is_flash_linear_attention_available = _asked("flash_linear_attention")
is_flute_available = _asked("flute")
is_fouroversix_available = _asked("fouroversix")
is_fp_quant_available = _asked("fp_quant")
is_g2p_en_available = _asked("g2p_en")
is_galore_torch_available = _asked("galore_torch")
is_gguf_available = _asked("gguf", "0.10.0")
is_gptqmodel_available = _asked("gptqmodel")
is_grokadamw_available = _asked("grokadamw")
is_hadamard_available = _asked("hadamard")
is_hqq_available = _asked("hqq", "0.2.1")
is_ipython_available = _asked("ipython")
is_jinja_available = _asked("jinja")
is_kenlm_available = _asked("kenlm")
is_kernels_available = _asked("kernels")
is_levenshtein_available = _asked("levenshtein")
is_libcst_available = _asked("libcst")
is_librosa_available = _asked("librosa")
is_liger_kernel_available = _asked("liger_kernel")
is_llm_awq_available = _asked("llm_awq")
is_lomo_available = _asked("lomo")
is_mambapy_available = _asked("mambapy")
is_matplotlib_available = _asked("matplotlib")
is_mistral_common_available = _asked("mistral_common", "1.11.5")
is_mlx_available = _asked("mlx")
is_multipart_available = _asked("multipart")
is_nagisa_available = _asked("nagisa")
is_natten_available = _asked("natten")
is_nltk_available = _asked("nltk")
is_nncf_available = _asked("nncf")
is_num2words_available = _asked("num2words")
is_numba_available = _asked("numba")
is_onnx_available = _asked("onnx")
is_onnxruntime_available = _asked("onnxruntime")
is_onnxscript_available = _asked("onnxscript")
is_openai_available = _asked("openai")
is_openvino_available = _asked("openvino")
is_optimum_available = _asked("optimum")
is_optimum_neuron_available = _asked("optimum_neuron")
is_optimum_quanto_available = _asked("optimum_quanto")
is_pandas_available = _asked("pandas")
is_peft_available = _asked("peft")
is_phonemizer_available = _asked("phonemizer")
is_pretty_midi_available = _asked("pretty_midi")
is_protobuf_available = _asked("protobuf")
is_psutil_available = _asked("psutil")
is_py3nvml_available = _asked("py3nvml")
is_pyctcdecode_available = _asked("pyctcdecode")
is_pydantic_available = _asked("pydantic")
is_pygments_available = _asked("pygments")
is_pynvml_available = _asked("pynvml")
is_pytesseract_available = _asked("pytesseract")
is_pytest_available = _asked("pytest")
is_pytest_order_available = _asked("pytest_order")
is_pytorch_quantization_available = _asked("pytorch_quantization")
is_quark_available = _asked("quark")
is_qutlass_available = _asked("qutlass")
is_rich_available = _asked("rich")
is_rjieba_available = _asked("rjieba")
is_sacremoses_available = _asked("sacremoses")
is_safetensors_available = _asked("safetensors")
is_schedulefree_available = _asked("schedulefree", "1.2.6")
is_scipy_available = _asked("scipy")
is_sentencepiece_available = _asked("sentencepiece")
is_seqio_available = _asked("seqio")
is_sinq_available = _asked("sinq")
is_sklearn_available = _asked("sklearn")
is_soundfile_available = _asked("soundfile")
is_soxr_available = _asked("soxr")
is_soynlp_available = _asked("soynlp")
is_spacy_available = _asked("spacy")
is_speech_available = _asked("speech")
is_spqr_available = _asked("spqr")
is_sudachi_available = _asked("sudachi")
is_sudachi_projection_available = _asked("sudachi_projection")
is_tiktoken_available = _asked("tiktoken")
is_timm_available = _asked("timm")
is_tokenizers_available = _asked("tokenizers")
is_torch_optimi_available = _asked("torch_optimi")
is_torch_tensorrt_fx_available = _asked("torch_tensorrt_fx")
is_torchao_available = _asked("torchao", "0.15.0")
is_torchaudio_available = _asked("torchaudio")
is_torchcodec_available = _asked("torchcodec")
is_torchdistx_available = _asked("torchdistx")
is_torchvision_available = _asked("torchvision")
is_triton_available = _asked("triton", "1.0.0")
is_uroman_available = _asked("uroman")
is_uvicorn_available = _asked("uvicorn")
is_vision_available = _asked("vision")
is_vptq_available = _asked("vptq", "0.0.4")
is_xlstm_available = _asked("xlstm")
is_yt_dlp_available = _asked("yt_dlp")

# -- several at once -------------------------------------------------------------------------------------------------


def is_audio_available() -> bool:
    """Whether sound can be read and resampled."""
    return is_soundfile_available() and is_soxr_available()


def is_serve_available() -> bool:
    """Whether there is what the ecosystem's server is made of."""
    return all(_installed(name) for name in ("pydantic", "fastapi", "uvicorn", "openai"))


def is_jumanpp_available() -> bool:
    """Whether the program jumanpp and its package are installed."""
    return _installed("rhoknp") and shutil.which("jumanpp") is not None


def is_ninja_available() -> bool:
    """Whether the program ninja is installed."""
    return shutil.which("ninja") is not None


def is_torchvision_v2_available() -> bool:
    """Whether torchvision is installed."""
    return is_torchvision_available()


def is_mamba_ssm_available() -> bool:
    """Whether the package mamba_ssm can run."""
    return is_torch_cuda_available() and _installed("mamba_ssm")


def is_mamba_2_ssm_available() -> bool:
    """Whether the package mamba_ssm can run, and knows Mamba 2."""
    return is_torch_cuda_available() and _is_new_enough("mamba_ssm", "2.0.4")


def is_causal_conv1d_available() -> bool:
    """Whether the package causal_conv1d can run."""
    return is_torch_cuda_available() and _installed("causal_conv1d")


def is_flash_attn_2_available() -> bool:
    """Whether the package flash_attn can run."""
    return is_torch_cuda_available() and _installed("flash_attn")


def is_flash_attn_3_available() -> bool:
    """Whether the package flash_attn_interface can run."""
    return is_torch_cuda_available() and _installed("flash_attn_interface")


def is_flash_attn_4_available() -> bool:
    """Whether flash_attn's fourth release can run."""
    return is_torch_cuda_available() and _installed("flash_attn.cute")


def is_flash_attn_greater_or_equal(library_version: str) -> bool:
    """Whether the package flash_attn can run, and is not older."""
    return is_flash_attn_2_available() and _is_new_enough("flash_attn", library_version)


def is_flash_attn_greater_or_equal_2_10() -> bool:
    """Whether the package flash_attn can run, and is of release 2.1 at least."""
    return is_flash_attn_greater_or_equal("2.1.0")


def is_torchvision_greater_or_equal(library_version: str, accept_dev: bool = False) -> bool:
    """Whether torchvision is installed, and not older."""
    return _is_new_enough("torchvision", library_version)


def is_huggingface_hub_greater_or_equal(library_version: str, accept_dev: bool = False) -> bool:
    """Whether huggingface_hub is not older."""
    return _is_new_enough("huggingface_hub", library_version)


def is_peft_greater_or_equal(library_version: str, accept_dev: bool = False) -> bool:
    """Whether PEFT is installed, and not older."""
    return _is_new_enough("peft", library_version)


def requires_backends(obj: object, backends: str | Sequence[str]) -> None:
    """Refuse what needs packages that are not installed.

    Args:
        obj: what needs them.
        backends: the ecosystem's words for them.

    Raises:
        DependencyError: one is missing.
    """
    words = [backends] if isinstance(backends, str) else backends
    missing = [word for word in words if word != "torch" and not _installed(_PACKAGES.get(word, word))]
    if missing:
        kind = obj if isinstance(obj, type) else type(obj)
        name = obj.__name__ if isinstance(obj, FunctionType) else kind.__name__
        raise DependencyError(
            "packages are missing", where=name, expected=listed(missing), found="they are not installed"
        )


__all__ = [
    "is_accelerate_available",
    "is_apex_available",
    "is_apollo_torch_available",
    "is_aqlm_available",
    "is_audio_available",
    "is_auto_round_available",
    "is_av_available",
    "is_bitsandbytes_available",
    "is_bs4_available",
    "is_causal_conv1d_available",
    "is_coloredlogs_available",
    "is_compressed_tensors_available",
    "is_cv2_available",
    "is_cython_available",
    "is_datasets_available",
    "is_decord_available",
    "is_detectron2_available",
    "is_diffusers_available",
    "is_einops_available",
    "is_essentia_available",
    "is_executorch_available",
    "is_faiss_available",
    "is_fastapi_available",
    "is_fbgemm_gpu_available",
    "is_flash_attn_2_available",
    "is_flash_attn_3_available",
    "is_flash_attn_4_available",
    "is_flash_attn_greater_or_equal",
    "is_flash_attn_greater_or_equal_2_10",
    "is_flash_linear_attention_available",
    "is_flute_available",
    "is_fouroversix_available",
    "is_fp_quant_available",
    "is_g2p_en_available",
    "is_galore_torch_available",
    "is_gguf_available",
    "is_gptqmodel_available",
    "is_grokadamw_available",
    "is_hadamard_available",
    "is_hqq_available",
    "is_huggingface_hub_greater_or_equal",
    "is_ipython_available",
    "is_jinja_available",
    "is_jumanpp_available",
    "is_kenlm_available",
    "is_kernels_available",
    "is_levenshtein_available",
    "is_libcst_available",
    "is_librosa_available",
    "is_liger_kernel_available",
    "is_llm_awq_available",
    "is_lomo_available",
    "is_mamba_2_ssm_available",
    "is_mamba_ssm_available",
    "is_mambapy_available",
    "is_matplotlib_available",
    "is_mistral_common_available",
    "is_mlx_available",
    "is_multipart_available",
    "is_nagisa_available",
    "is_natten_available",
    "is_ninja_available",
    "is_nltk_available",
    "is_nncf_available",
    "is_num2words_available",
    "is_numba_available",
    "is_onnx_available",
    "is_onnxruntime_available",
    "is_onnxscript_available",
    "is_openai_available",
    "is_openvino_available",
    "is_optimum_available",
    "is_optimum_neuron_available",
    "is_optimum_quanto_available",
    "is_pandas_available",
    "is_peft_available",
    "is_peft_greater_or_equal",
    "is_phonemizer_available",
    "is_pretty_midi_available",
    "is_protobuf_available",
    "is_psutil_available",
    "is_py3nvml_available",
    "is_pyctcdecode_available",
    "is_pydantic_available",
    "is_pygments_available",
    "is_pynvml_available",
    "is_pytesseract_available",
    "is_pytest_available",
    "is_pytest_order_available",
    "is_pytorch_quantization_available",
    "is_quark_available",
    "is_qutlass_available",
    "is_rich_available",
    "is_rjieba_available",
    "is_sacremoses_available",
    "is_safetensors_available",
    "is_schedulefree_available",
    "is_scipy_available",
    "is_sentencepiece_available",
    "is_seqio_available",
    "is_serve_available",
    "is_sinq_available",
    "is_sklearn_available",
    "is_soundfile_available",
    "is_soxr_available",
    "is_soynlp_available",
    "is_spacy_available",
    "is_speech_available",
    "is_spqr_available",
    "is_sudachi_available",
    "is_sudachi_projection_available",
    "is_tiktoken_available",
    "is_timm_available",
    "is_tokenizers_available",
    "is_torch_optimi_available",
    "is_torch_tensorrt_fx_available",
    "is_torchao_available",
    "is_torchaudio_available",
    "is_torchcodec_available",
    "is_torchdistx_available",
    "is_torchvision_available",
    "is_torchvision_greater_or_equal",
    "is_torchvision_v2_available",
    "is_triton_available",
    "is_uroman_available",
    "is_uvicorn_available",
    "is_vision_available",
    "is_vptq_available",
    "is_xlstm_available",
    "is_yt_dlp_available",
    "requires_backends",
]
