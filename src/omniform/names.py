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
from typing import Final, cast

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
    "generation.utils": "GenerationMixin GenerationConfig GenerationMode LogitsProcessorList StoppingCriteriaList "
    "*DecoderOnlyOutput *EncoderDecoderOutput GenerateOutput ModelOutput",
    "hf_argparser": "",
    "image_processing_base": "BatchFeature ImageProcessingMixin",
    "image_processing_utils": "BatchFeature BaseImageProcessor ImageProcessingMixin",
    "modeling_utils": "PreTrainedModel",
    "integrations": "",
    "integrations.integration_utils": "",
    "integrations.deepspeed": "",
    "integrations.fsdp": "",
    "models": "",
    "models.auto": "*Auto *_MAPPING get_values",
    "models.auto.auto_factory": "get_values",
    "models.auto.configuration_auto": "AutoConfig CONFIG_MAPPING CONFIG_MAPPING_NAMES",
    "models.auto.feature_extraction_auto": "AutoFeatureExtractor *FEATURE_EXTRACTOR_MAPPING CONFIG_MAPPING_NAMES",
    "models.auto.image_processing_auto": "AutoImageProcessor *IMAGE_PROCESSOR_MAPPING CONFIG_MAPPING_NAMES",
    "models.auto.modeling_auto": "*Auto *_MAPPING",
    "models.auto.processing_auto": "AutoProcessor *PROCESSOR_MAPPING CONFIG_MAPPING_NAMES",
    "models.auto.tokenization_auto": "AutoTokenizer *TOKENIZER_MAPPING CONFIG_MAPPING_NAMES",
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
    "trainer": "Trainer TrainingArguments *Callback",
    "trainer_jit_checkpoint": "",
    "debug_utils": "",
    "file_utils": "ModelOutput PaddingStrategy TensorType PushToHubMixin cached_file has_file",
    "testing_utils": "",
    "trainer_callback": "",
    "optimization": "SchedulerType",
    "trainer_optimizer": "",
    "trainer_seq2seq": "",
    "trainer_utils": "set_seed enable_full_determinism",
    "training_args": "",
    "training_args_seq2seq": "",
    "utils": "logging ModelOutput HF_MODULES_CACHE cached_file extract_commit_hash has_file is_offline_mode "
    "list_repo_templates PushToHubMixin PaddingStrategy TensorType",
    "utils.hub": "HF_MODULES_CACHE cached_file cached_files extract_commit_hash has_file is_offline_mode "
    "list_repo_templates PushToHubMixin create_and_tag_model_card",
    "utils.chat_template_utils": "Chat",
    "utils.generic": "ModelOutput PaddingStrategy TensorType",
    "utils.quantization_config": "QuantizationConfigMixin BitsAndBytesConfig GPTQConfig AwqConfig HqqConfig "
    "QuantoConfig TorchAoConfig Mxfp4Config FineGrainedFP8Config GgufConfig",
    "utils.logging": "",
    "utils.versions": "",
    **dict.fromkeys(
        (
            "activations",
            "audio_utils",
            "data",
            "data.data_collator",
            "image_transforms",
            "image_utils",
            "video_processing_utils",
            "video_utils",
            "modeling_layers",
            "modeling_outputs",
            "pytorch_utils",
            "trainer_pt_utils",
            "utils.constants",
            "utils.deprecation",
            "utils.doc",
            "utils.import_utils",
            "utils.notebook",
        ),
        "",
    ),
}
"""Module paths below ``omniform``, and the names that are found there; a word after a star stands for all that hold it.
"""

_UTILS: Final = ("core.idioms", "core.installed", "core.runtime", "core.releases", "core.arrays", "train.wrapped")

_OF_TRAINER: Final = (
    "train.batch_size",
    "train.data",
    "train.helpers",
    "train.intervals",
    "train.memory",
    "train.metrics",
    "train.publishing",
    "train.questions",
    "train.rotation",
    "train.search",
    "train.specials",
)

_OF_TENSORS: Final = (
    "train.accelerator_config",
    "train.between",
    "train.decay",
    "train.helpers",
    "train.layerwise",
    "train.metrics",
    "train.nested",
    "train.samplers",
    "train.smoothing",
)

HOMES: Final[dict[str, tuple[str, ...]]] = {
    "activations": ("blocks.activations",),
    "audio_utils": ("inputs.audio.audio_utils",),
    "data": ("train.collators",),
    "data.data_collator": ("train.collators",),
    "hf_argparser": ("train.parser",),
    "image_transforms": ("inputs.images.image_transforms",),
    "image_processing_utils": ("inputs.images.image_utils",),
    "image_utils": ("inputs.images.image_utils",),
    "video_processing_utils": ("inputs.videos",),
    "video_utils": ("inputs.videos",),
    "integrations": ("train.reporting", "hub.partitioned", "train.parallel.fsdp", "train.parallel.deepspeed"),
    "integrations.deepspeed": ("hub.partitioned", "train.parallel.deepspeed"),
    "integrations.fsdp": ("train.parallel.fsdp",),
    "integrations.integration_utils": ("train.reporting",),
    "modeling_layers": ("blocks.checkpointed",),
    "modeling_outputs": ("core.named_outputs",),
    "modeling_utils": ("blocks.pytorch_utils", "train.helpers"),  # where older releases had them
    "optimization": ("train.schedulers", "train.greedy", "train.adafactor", "train.layerwise"),
    "processing_utils": ("core.idioms",),
    "pytorch_utils": ("blocks.pytorch_utils",),
    "trainer": (
        "train.trainer",
        "train.file_names",
        "train.callbacks",
        "train.state",
        *_OF_TRAINER,
        *_OF_TENSORS,
        "train.arguments",
        "train.collators",
        "train.schedulers",
        "train.optimizers",
        "train.reporting",
        *_UTILS,
    ),
    "trainer_jit_checkpoint": ("train.just_in_time", "train.rotation"),
    "debug_utils": ("train.intervals",),
    "file_utils": _UTILS,
    "testing_utils": ("core.capturing",),
    "trainer_callback": ("train.callbacks", "train.state", "train.progress"),
    "trainer_optimizer": ("train.optimizers", "train.helpers"),
    "trainer_pt_utils": _OF_TENSORS,
    "trainer_seq2seq": ("train.seq2seq",),
    "trainer_utils": _OF_TRAINER,
    "training_args": ("train.arguments", "train.intervals", "train.helpers"),
    "training_args_seq2seq": ("train.arguments",),
    "utils.notebook": ("train.notebook",),
    "utils": _UTILS,
    **dict.fromkeys(("utils.generic", "utils.hub"), _UTILS),
    "utils.constants": ("core.arrays",),
    "utils.deprecation": ("core.idioms",),
    "utils.doc": ("core.idioms", "core.arrays"),
    "utils.import_utils": ("core.installed", "core.runtime", "core.idioms"),
    "utils.logging": ("core.logs", "core.bars"),
    "utils.versions": ("core.releases",),
}
"""Module paths that hold all public names (``__all__``) of modules of omniform's."""

_FAMILY: Final = "omniform composes its models of blocks: see docs/own_family.md for a family of your own"
_MASKS: Final = "give torch's scaled_dot_product_attention a mask, or is_causal=True"

INSTEAD: Final[dict[str, str]] = {
    "convert_slow_tokenizer": "the package tokenizers builds such a tokenizer; derive from PreTrainedTokenizerFast",
    "image_processing_utils_fast": "omniform.BaseImageProcessor",
    "loss": "torch.nn.functional.cross_entropy, or self.loss_function in a model's forward",
    "masking_utils": _MASKS,
    "modeling_attn_mask_utils": _MASKS,
    "modeling_flash_attention_utils": "torch's scaled_dot_product_attention, which chooses a kernel itself",
    "modeling_rope_utils": "compute the angles in the model, or compose it of omniform's blocks (docs/own_family.md)",
    "modeling_tf_utils": "omniform is for torch only",
    "modeling_flax_utils": "omniform is for torch only",
}
"""Module paths of the ecosystem's that are not here, and what to use."""

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
        if package == "omniform" and rest.partition(".")[0] in INSTEAD:
            raise ModuleNotFoundError(f"omniform has no {rest!r}: {INSTEAD[rest.partition('.')[0]]}", name=fullname)
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
        value: object
        if (rest == "dynamic_module_utils" and name in _DYNAMIC.split()) or name == "HF_MODULES_CACHE":
            # The folder of modules follows the environment, and is looked up each time.
            home = import_module("omniform.hub.code.dynamic")
            found: object = home.__getattr__(name) if name.isupper() else vars(home)[name]
            return found
        if name == "Unpack" and rest == "processing_utils":
            value = vars(import_module("typing"))[name]
        elif f"{rest}.{name}" in PATHS:
            value = import_module(f"omniform.{rest}.{name}")
        elif (public := _home_of(rest, name)) is not None:
            value = public[name]
        elif not name.startswith("_") and (_of_family(rest) or _holds(PATHS[rest], name)):
            value = self._public(rest, name)
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def _public(self, rest: str, name: str) -> object:
        try:
            return cast(object, vars(import_module("omniform"))["__getattr__"](name))
        except AttributeError:
            if rest.rpartition(".")[2].startswith("modeling_") and _of_family(rest):
                raise ImportError(f"omniform has no {name!r} in {self.__name__}: {_FAMILY}") from None
            raise

    def __dir__(self) -> list[str]:
        rest = self.__name__.partition(".")[2]
        return [*super().__dir__(), *PATHS.get(rest, "").split(), *_at_home(rest)]


def _at_home(rest: str) -> dict[str, object]:
    """What a module path holds by :data:`HOMES`."""
    homes = [vars(import_module(f"omniform.{home}")) for home in HOMES.get(rest, ())]
    return {name: home[name] for home in homes for name in home["__all__"]}


def _home_of(rest: str, name: str) -> dict[str, object] | None:
    """The first module of :data:`HOMES` that has a public name; those behind it are not imported."""
    if name.startswith("__"):  # Python itself asks for ``__file__`` and the like
        return None
    homes = (vars(import_module(f"omniform.{home}")) for home in HOMES.get(rest, ()))
    return next((home for home in homes if name in home["__all__"]), None)


def _of_family(rest: str) -> bool:
    parts = rest.split(".")
    return len(parts) == 3 and parts[0] == "models" and any(parts[2] == f"{kind}_{parts[1]}" for kind in FAMILY_FILES)


def _holds(words: str, name: str) -> bool:
    return any(name == word or (word.startswith("*") and word[1:] in name) for word in words.split())
