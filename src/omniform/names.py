"""The ecosystem's module paths: what scripts import from where, in one table; read when a name is asked for.

``from omniform.modeling_utils import PreTrainedModel`` works because ``omniform`` puts :class:`Paths` behind Python's
own finders: it makes a module whose names are looked up in the package itself. Nothing is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

_CRITERIA: Final = (
    "ConfidenceCriteria EosTokenCriteria MaxLengthCriteria MaxTimeCriteria StopStringCriteria StoppingCriteria "
    "StoppingCriteriaList validate_stopping_criteria"
)
_RULES: Final = "*LogitsProcessor *LogitsWarper *LengthPenalty *Normalization *SpeechDetection *TextWatermarkState"

_DYNAMIC: Final = (
    "HF_MODULES_CACHE check_imports check_python_requirements create_dynamic_module custom_object_save "
    "get_cached_module_file get_class_from_dynamic_module get_class_in_module get_imports get_relative_import_files "
    "get_relative_imports init_hf_modules resolve_trust_remote_code"
)

PATHS: Final[dict[str, str]] = {
    "cache_utils": "Cache DynamicCache StaticCache QuantizedCache EncoderDecoderCache SlidingWindowCache",
    "dynamic_module_utils": _DYNAMIC,
    "configuration_utils": "PretrainedConfig PreTrainedConfig",
    "feature_extraction_utils": "BatchFeature FeatureExtractionMixin",
    "feature_extraction_sequence_utils": "SequenceFeatureExtractor",
    "generation": "GenerationMixin GenerationConfig GenerationMode ContinuousBatchingConfig *Watermark *Streamer "
    f"{_RULES} {_CRITERIA}",
    "generation.configuration_utils": "GenerationConfig GenerationMode ContinuousBatchingConfig *WatermarkingConfig",
    "generation.continuous_batching": "ContinuousBatchingManager RequestStatus",
    "generation.continuous_batching.continuous_api": "ContinuousBatchingManager",
    "generation.continuous_batching.requests": "RequestStatus GenerationOutput",
    "generation.logits_process": _RULES,
    "generation.stopping_criteria": _CRITERIA,
    "generation.watermarking": "WatermarkDetector WatermarkDetectorOutput",
    "generation.streamers": "*Streamer",
    "generation.utils": "GenerationMixin GenerationConfig GenerationMode LogitsProcessorList StoppingCriteriaList",
    "image_processing_base": "BatchFeature ImageProcessingMixin",
    "image_processing_utils": "BatchFeature BaseImageProcessor ImageProcessingMixin",
    "modeling_utils": "PreTrainedModel",
    "models": "",
    "models.auto": "*Auto",
    "models.auto.configuration_auto": "AutoConfig",
    "models.auto.feature_extraction_auto": "AutoFeatureExtractor",
    "models.auto.image_processing_auto": "AutoImageProcessor",
    "models.auto.modeling_auto": "*Auto",
    "models.auto.processing_auto": "AutoProcessor",
    "models.auto.tokenization_auto": "AutoTokenizer",
    "processing_utils": "ProcessorMixin BatchFeature Unpack *Kwargs",
    "quantizers": "*Quantizer HfQuantizer AutoQuantizationConfig register_quantization_config register_quantizer "
    "get_module_from_name",
    "quantizers.auto": "AutoHfQuantizer AutoQuantizationConfig register_quantization_config register_quantizer",
    "quantizers.base": "HfQuantizer get_keys_to_not_convert",
    "quantizers.quantizers_utils": "get_module_from_name should_convert_module",
    "tokenization_python": "PreTrainedTokenizer PythonBackend BatchEncoding AddedToken",
    "tokenization_utils": "PreTrainedTokenizer BatchEncoding AddedToken",
    "tokenization_utils_base": "PreTrainedTokenizerBase BatchEncoding AddedToken *Strategy "
    "TensorType TextInput PreTokenizedInput EncodedInput",
    "tokenization_utils_fast": "PreTrainedTokenizerFast",
    "tokenization_utils_sentencepiece": "SentencePieceBackend",
    "tokenization_utils_tokenizers": "PreTrainedTokenizerFast TokenizersBackend",
    "trainer_utils": "set_seed",
    "utils": "logging ModelOutput HF_MODULES_CACHE cached_file extract_commit_hash has_file is_offline_mode "
    "list_repo_templates PushToHubMixin PaddingStrategy TensorType",
    "utils.hub": "HF_MODULES_CACHE cached_file cached_files extract_commit_hash has_file is_offline_mode "
    "list_repo_templates PushToHubMixin create_and_tag_model_card",
    "utils.chat_template_utils": "Chat",
    "utils.generic": "ModelOutput",
    "utils.quantization_config": "QuantizationConfigMixin",
    "utils.logging": "get_logger set_verbosity set_verbosity_debug set_verbosity_error set_verbosity_info "
    "set_verbosity_warning get_verbosity",
    "modeling_outputs": "*Output",
}
"""Module paths below ``omniform``, and the names that are found there; a word after a star stands for all that hold it.
"""

FAMILY_FILES: Final = (
    "modeling",
    "configuration",
    "tokenization",
    "processing",
    "image_processing",
    "feature_extraction",
)
"""Beginnings of a family's own modules: ``omniform.models.llama.modeling_llama``."""


class Paths(MetaPathFinder, Loader):
    """Finds the modules of :data:`PATHS`, and those of families; asked when there is no such file."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for one of the ecosystem's module paths; None for any other."""
        package, _, rest = fullname.partition(".")
        if package == "omniform" and (rest == "modules" or rest.startswith("modules.")):
            # Code of checkpoints that the user trusts.
            found: ModuleSpec | None = vars(import_module("omniform.hub.code.importer"))["find"](fullname)
            return found
        if package != "omniform" or not (rest in PATHS or _of_family(rest)):
            return None
        return ModuleSpec(fullname, self, is_package=any(name.startswith(f"{rest}.") for name in PATHS))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module that looks its names up when they are asked for."""
        return _Names(spec.name, "Names of the ecosystem, found where omniform has them.")

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


class _Names(ModuleType):
    def __getattr__(self, name: str) -> object:
        rest = self.__name__.partition(".")[2]
        if rest == "utils.logging" and name in PATHS[rest].split():
            value: object = vars(import_module("omniform.core.logs"))[name]
        elif (rest == "dynamic_module_utils" and name in _DYNAMIC.split()) or name == "HF_MODULES_CACHE":
            # The folder of modules follows the environment, and is looked up each time.
            home = import_module("omniform.hub.code.dynamic")
            found: object = home.__getattr__(name) if name.isupper() else vars(home)[name]
            return found
        elif name == "Unpack" and rest == "processing_utils":
            value = vars(import_module("typing"))[name]
        elif f"{rest}.{name}" in PATHS:
            value = import_module(f"omniform.{rest}.{name}")
        elif not name.startswith("_") and (_of_family(rest) or _holds(PATHS[rest], name)):
            value = vars(import_module("omniform"))["__getattr__"](name)
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(word for word in PATHS.get(self.__name__.partition(".")[2], "").split())]


def _of_family(rest: str) -> bool:
    parts = rest.split(".")
    return len(parts) == 3 and parts[0] == "models" and any(parts[2] == f"{kind}_{parts[1]}" for kind in FAMILY_FILES)


def _holds(words: str, name: str) -> bool:
    return any(name == word or (word.startswith("*") and word[1:] in name) for word in words.split())
