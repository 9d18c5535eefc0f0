"""omniform loads Hugging Face checkpoints and runs them: small, typed, fast, strict and safe.

Names are looked up when they are used, so that ``import omniform`` costs next to nothing beyond torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from omniform.core.collector import paused
from omniform.names import PATHS, Paths

__version__ = "0.1.0"

_MODEL_CLASSES = (
    "AutoBackbone", "AutoConfig", "AutoModel", "AutoModelForAudioClassification",
    "AutoModelForAudioFrameClassification", "AutoModelForAudioTokenization", "AutoModelForAudioXVector",
    "AutoModelForCTC", "AutoModelForCausalLM", "AutoModelForDepthEstimation",
    "AutoModelForDocumentQuestionAnswering", "AutoModelForImageClassification",
    "AutoModelForImageSegmentation", "AutoModelForImageTextToText", "AutoModelForInstanceSegmentation",
    "AutoModelForMaskGeneration", "AutoModelForMaskedImageModeling", "AutoModelForMaskedLM", "AutoModelForMultimodalLM",
    "AutoModelForMultipleChoice", "AutoModelForNextSentencePrediction", "AutoModelForObjectDetection",
    "AutoModelForPreTraining", "AutoModelForQuestionAnswering", "AutoModelForSemanticSegmentation",
    "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification", "AutoModelForSpeechSeq2Seq",
    "AutoModelForTextEncoding", "AutoModelForTextToSpectrogram", "AutoModelForTextToWaveform",
    "AutoModelForTokenClassification", "AutoModelForUniversalSegmentation", "AutoModelForVideoClassification",
    "AutoModelForVision2Seq", "AutoModelForVisualQuestionAnswering", "AutoModelForZeroShotImageClassification",
    "AutoModelForZeroShotObjectDetection",
)  # fmt: skip

_FILES = ("CONFIG_NAME", "WEIGHTS_NAME")  # what files are called
_INPUT_CLASSES = ("AutoFeatureExtractor", "AutoImageProcessor", "AutoProcessor", "AutoTokenizer")
_OWN_PROCESSORS = (
    "AudioKwargs", "CommonKwargs", "ImagesKwargs", "ProcessingKwargs", "ProcessorMixin", "TextKwargs", "VideosKwargs",
)  # fmt: skip
_TOKENIZER_BASES = ("PreTrainedTokenizer", "PreTrainedTokenizerBase", "PreTrainedTokenizerFast")
_OWN_TOKENIZERS = (
    "EncodedInput", "PaddingStrategy", "PreTokenizedInput", "TensorType", "TextInput", "TruncationStrategy",
)  # fmt: skip

_RULES = (
    "AlternatingCodebooksLogitsProcessor", "BarkEosPrioritizerLogitsProcessor",
    "ClassifierFreeGuidanceLogitsProcessor", "DiaClassifierFreeGuidanceLogitsProcessor",
    "DiaEOSChannelFilterLogitsProcessor", "DiaEOSDelayPatternLogitsProcessor",
    "EncoderNoRepeatNGramLogitsProcessor", "EncoderRepetitionPenaltyLogitsProcessor", "EpsilonLogitsWarper",
    "EtaLogitsWarper", "ExponentialDecayLengthPenalty", "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor", "HammingDiversityLogitsProcessor", "InfNanRemoveLogitsProcessor",
    "LogitNormalization", "LogitsProcessor", "LogitsProcessorList", "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor", "MinPLogitsWarper", "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor", "PrefixConstrainedLogitsProcessor", "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor", "SuppressTokensLogitsProcessor",
    "SynthIDTextWatermarkLogitsProcessor", "SynthIDTextWatermarkState", "TemperatureLogitsWarper",
    "TopHLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "TypicalLogitsWarper",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor", "WatermarkLogitsProcessor", "WhisperNoSpeechDetection",
    "WhisperTimeStampLogitsProcessor",
)  # fmt: skip
_CRITERIA = (
    "ConfidenceCriteria", "EosTokenCriteria", "MaxLengthCriteria", "MaxTimeCriteria", "StopStringCriteria",
    "StoppingCriteria", "StoppingCriteriaList", "validate_stopping_criteria",
)  # fmt: skip
_GENERATED = (
    "GenerateBeamDecoderOnlyOutput", "GenerateBeamEncoderDecoderOutput", "GenerateDecoderOnlyOutput",
    "GenerateEncoderDecoderOutput", "GenerateOutput",
)  # fmt: skip
_CONSTRAINTS = ("Constraint", "DisjunctiveConstraint", "PhrasalConstraint")
_WATERMARKS = ("BaseWatermarkingConfig", "SynthIDTextWatermarkingConfig", "WatermarkingConfig")
_STREAMERS = (
    "AsyncTextIteratorStreamer", "BaseStreamer", "RowStreamer", "RowTextIteratorStreamer", "RowTextStreamer",
    "TextIteratorStreamer", "TextStreamer",
)  # fmt: skip
_CACHES = ("Cache", "DynamicCache", "QuantizedCache", "SlidingWindowCache", "StaticCache")
_PIPELINES = (
    "Chat", "ChunkPipeline", "KeyDataset", "PIPELINE_REGISTRY", "Pipeline", "PipelineRegistry", "pipeline",
)  # fmt: skip
_OUTPUTS = (
    "BaseModelOutput", "BaseModelOutputWithPast", "BaseModelOutputWithPastAndCrossAttentions",
    "BaseModelOutputWithPooling", "CausalLMOutput", "CausalLMOutputWithCrossAttentions", "CausalLMOutputWithPast",
    "ImageClassifierOutput", "MaskedLMOutput", "ModelOutput", "MultipleChoiceModelOutput", "QuestionAnsweringOutput",
    "Seq2SeqLMOutput", "Seq2SeqModelOutput", "SequenceClassifierOutput", "SequenceClassifierOutputWithPast",
    "TokenClassifierOutput",
)  # fmt: skip

_QUANTIZERS = (
    "ConversionOps", "HfQuantizer", "get_keys_to_not_convert", "get_module_from_name", "register_quantizer",
    "should_convert_module",
)  # fmt: skip
_QUANTIZATION_CONFIGS = ("QuantizationConfigMixin", "register_quantization_config")
_LOOKUPS = (
    "cached_file", "cached_files", "extract_commit_hash", "file_exists", "get_token", "has_file", "is_offline_mode",
    "list_repo_templates", "login", "logout",
)  # fmt: skip

_SCHEDULES = (
    "get_constant_schedule", "get_constant_schedule_with_warmup", "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup", "get_cosine_with_min_lr_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate", "get_greedy_schedule", "get_inverse_sqrt_schedule",
    "get_linear_schedule_with_warmup", "get_polynomial_decay_schedule_with_warmup", "get_reduce_on_plateau_schedule",
    "get_scheduler", "get_wsd_schedule",
)  # fmt: skip
_TRAINING_WORDS = ("HubStrategy", "IntervalStrategy", "SaveStrategy", "SchedulerType")
_CALLBACKS = ("DefaultFlowCallback", "EarlyStoppingCallback", "PrinterCallback", "TrainerCallback")
_RUN_STATES = ("ExportableState", "TrainerControl", "TrainerState")

_COLLATORS = (
    "DataCollator", "DataCollatorForLanguageModeling", "DataCollatorForMultimodal", "DataCollatorForMultipleChoice",
    "DataCollatorForPermutationLanguageModeling", "DataCollatorForSeq2Seq", "DataCollatorForTokenClassification",
    "DataCollatorForWholeWordMask", "DataCollatorWithFlattening", "DataCollatorWithPadding", "DefaultDataCollator",
    "default_data_collator",
)  # fmt: skip

_REPORTS = (
    "is_clearml_available", "is_comet_available", "is_dvclive_available", "is_neptune_available",
    "is_optuna_available", "is_ray_available", "is_ray_tune_available", "is_swanlab_available",
    "is_tensorboard_available", "is_trackio_available", "is_wandb_available",
)  # fmt: skip

_EMBEDDINGS = ("Embedder", "SentenceTransformer", "embed")

_HOME: dict[str, str] = {
    **dict.fromkeys(_TOKENIZER_BASES, "omniform.inputs.text.classes"),
    **dict.fromkeys(_OWN_TOKENIZERS, "omniform.inputs.text.own.strategies"),
    "SentencePieceBackend": "omniform.inputs.text.own.pieces",
    "AddedToken": "tokenizers",
    "BatchEncoding": "omniform.inputs.text.encoding",
    "BatchFeature": "omniform.core.batch",
    **dict.fromkeys(_OWN_PROCESSORS, "omniform.inputs.processors"),
    **dict.fromkeys(("BaseImageProcessor", "ImageProcessingMixin"), "omniform.inputs.images"),
    **dict.fromkeys(("BaseVideoProcessor", "VideoMetadata", "load_video"), "omniform.inputs.videos"),
    **dict.fromkeys(("FeatureExtractionMixin", "SequenceFeatureExtractor"), "omniform.inputs.audio"),
    **dict.fromkeys(_QUANTIZERS, "omniform.transforms.quantize.quantizer"),
    **dict.fromkeys(_QUANTIZATION_CONFIGS, "omniform.transforms.quantize.config"),
    **dict.fromkeys(("AutoHfQuantizer", "AutoQuantizationConfig"), "omniform.hub.auto_quantize"),
    **dict.fromkeys(_MODEL_CLASSES, "omniform.hub.auto"),
    **dict.fromkeys(_INPUT_CLASSES, "omniform.hub.auto_inputs"),
    "AutoRoundConfig": "omniform.transforms.quantize.auto_round",
    "AwqConfig": "omniform.transforms.quantize.awq",
    "GgufConfig": "omniform.transforms.quantize.gguf",
    "GPTQConfig": "omniform.transforms.quantize.gptq",
    "HqqConfig": "omniform.transforms.quantize.hqq",
    "BitsAndBytesConfig": "omniform.transforms.quantize.bitsandbytes_config",
    "NativeConfig": "omniform.transforms.quantize.native",
    "QuantoConfig": "omniform.transforms.quantize.quanto",
    "TorchAoConfig": "omniform.transforms.quantize.torchao",
    "CompressedTensorsConfig": "omniform.transforms.quantize.compressed",
    "ModelOptConfig": "omniform.transforms.quantize.modelopt",
    "FineGrainedFP8Config": "omniform.transforms.quantize.fp8",
    "FbgemmFp8Config": "omniform.transforms.quantize.fp8",
    "Mxfp4Config": "omniform.transforms.quantize.mxfp4",
    "AutoVideoProcessor": "omniform.hub.auto_videos",
    **dict.fromkeys(_LOOKUPS, "omniform.hub.lookup"),
    "Engine": "omniform.engine.engine",
    "Guide": "omniform.engine.guide",
    "ContinuousBatchingConfig": "omniform.engine.batching_config",
    "ContinuousBatchingManager": "omniform.engine.manager",
    "RequestStatus": "omniform.engine.batch_outputs",
    "GenerationOutput": "omniform.engine.batch_outputs",
    **dict.fromkeys(_EMBEDDINGS, "omniform.embeddings.embedder"),
    "CrossEncoder": "omniform.embeddings.cross",
    "generate": "omniform.engine.generate",
    "stream": "omniform.engine.generate",
    "bundled_checkpoint": "omniform.hub.bundled",
    "plan": "omniform.hub.plan",
    "convert_modular": "omniform.export.modular",
    "eject": "omniform.export.eject",
    **dict.fromkeys(_STREAMERS, "omniform.engine.streamers"),
    "GenerationConfig": "omniform.core.generation",
    "Batch": "omniform.core.batch",
    "Span": "omniform.core.batch",
    "OmniformError": "omniform.core.errors",
    "MediaAccess": "omniform.inputs.media_access",
    "PreTrainedModel": "omniform.architectures.named",
    "PreTrainedConfig": "omniform.core.own_config",
    "PretrainedConfig": "omniform.core.own_config",
    **dict.fromkeys(("enable_full_determinism", "set_seed"), "omniform.core.seeds"),
    "Benchmark": "omniform.bench.benchmark",
    "BenchmarkConfig": "omniform.bench.config",
    "MetricsRecorder": "omniform.bench.recorder",
    "Trainer": "omniform.train.trainer",
    **dict.fromkeys(("Seq2SeqTrainingArguments", "TrainingArguments"), "omniform.train.arguments"),
    "EvalPrediction": "omniform.train.metrics",
    "LossGuard": "omniform.train.guard",
    "ResumeReport": "omniform.train.verify",
    "verify_resume": "omniform.train.verify",
    "Seq2SeqTrainer": "omniform.train.seq2seq",
    **dict.fromkeys(_CALLBACKS, "omniform.train.callbacks"),
    **dict.fromkeys(_RUN_STATES, "omniform.train.state"),
    "PushToHubMixin": "omniform.core.pushing",
    "create_and_tag_model_card": "omniform.hub.cards",
    "ModelCard": "huggingface_hub.repocard",
    "ModelCardData": "huggingface_hub.repocard_data",
    **dict.fromkeys(_RULES, "omniform.engine.processors"),
    **dict.fromkeys(_CRITERIA, "omniform.engine.criteria"),
    **dict.fromkeys(_GENERATED, "omniform.engine.generate_output"),
    **dict.fromkeys(_CONSTRAINTS, "omniform.engine.constraints"),
    **dict.fromkeys(_WATERMARKS, "omniform.core.watermark"),
    **dict.fromkeys(("WatermarkDetector", "WatermarkDetectorOutput"), "omniform.engine.watermark"),
    "GenerationMixin": "omniform.architectures.generation",
    "GenerationMode": "omniform.core.generation",
    **dict.fromkeys(_CACHES, "omniform.core.caches"),
    "EncoderDecoderCache": "omniform.core.paired_cache",
    **dict.fromkeys(_OUTPUTS, "omniform.core.outputs"),
    **dict.fromkeys(_REPORTS, "omniform.train.reporting.available"),
    "ProgressCallback": "omniform.train.progress",
    **dict.fromkeys(_PIPELINES, "omniform.pipelines"),
    **dict.fromkeys(_TRAINING_WORDS, "omniform.train.intervals"),
    **dict.fromkeys(_COLLATORS, "omniform.train.collators"),
    "torch_distributed_zero_first": "omniform.train.between",
    **dict.fromkeys(_SCHEDULES, "omniform.train.schedulers"),
    "Adafactor": "omniform.train.adafactor",
    "HfArgumentParser": "omniform.train.parser",
    "get_values": "omniform.hub.mappings",
    **dict.fromkeys(("add_end_docstrings", "add_start_docstrings"), "omniform.core.idioms"),
    "GradientCheckpointingLayer": "omniform.blocks.checkpointed",
    **dict.fromkeys(("Conv1D", "apply_chunking_to_forward"), "omniform.blocks.pytorch_utils"),
    "GreedyLR": "omniform.train.greedy",
    "ExportedModel": "omniform.export.onnx.running",
    "OnnxModel": "omniform.export.onnx.running",
}

if TYPE_CHECKING:
    from huggingface_hub import ModelCard as ModelCard
    from huggingface_hub import ModelCardData as ModelCardData
    from tokenizers import AddedToken as AddedToken

    from omniform.architectures.generation import GenerationMixin as GenerationMixin
    from omniform.bench.benchmark import Benchmark as Benchmark
    from omniform.bench.config import BenchmarkConfig as BenchmarkConfig
    from omniform.bench.recorder import MetricsRecorder as MetricsRecorder
    from omniform.core.batch import Batch as Batch
    from omniform.core.batch import BatchFeature as BatchFeature
    from omniform.core.batch import Span as Span
    from omniform.core.errors import OmniformError as OmniformError
    from omniform.core.generation import GenerationConfig as GenerationConfig
    from omniform.core.generation import GenerationMode as GenerationMode
    from omniform.core.installed import *  # noqa: F403
    from omniform.core.pushing import PushToHubMixin as PushToHubMixin
    from omniform.core.runtime import *  # noqa: F403
    from omniform.core.seeds import enable_full_determinism as enable_full_determinism
    from omniform.core.watermark import BaseWatermarkingConfig as BaseWatermarkingConfig
    from omniform.core.watermark import SynthIDTextWatermarkingConfig as SynthIDTextWatermarkingConfig
    from omniform.core.watermark import WatermarkingConfig as WatermarkingConfig
    from omniform.embeddings.cross import CrossEncoder as CrossEncoder
    from omniform.embeddings.embedder import Embedder as Embedder
    from omniform.embeddings.embedder import SentenceTransformer as SentenceTransformer
    from omniform.embeddings.embedder import embed as embed
    from omniform.engine.batch_outputs import GenerationOutput as GenerationOutput
    from omniform.engine.batch_outputs import RequestStatus as RequestStatus
    from omniform.engine.batching_config import ContinuousBatchingConfig as ContinuousBatchingConfig
    from omniform.engine.constraints import Constraint as Constraint
    from omniform.engine.constraints import DisjunctiveConstraint as DisjunctiveConstraint
    from omniform.engine.constraints import PhrasalConstraint as PhrasalConstraint
    from omniform.engine.criteria import ConfidenceCriteria as ConfidenceCriteria
    from omniform.engine.criteria import EosTokenCriteria as EosTokenCriteria
    from omniform.engine.criteria import MaxLengthCriteria as MaxLengthCriteria
    from omniform.engine.criteria import MaxTimeCriteria as MaxTimeCriteria
    from omniform.engine.criteria import StoppingCriteria as StoppingCriteria
    from omniform.engine.criteria import StoppingCriteriaList as StoppingCriteriaList
    from omniform.engine.criteria import StopStringCriteria as StopStringCriteria
    from omniform.engine.criteria import validate_stopping_criteria as validate_stopping_criteria
    from omniform.engine.engine import Engine as Engine
    from omniform.engine.generate import generate as generate
    from omniform.engine.generate import stream as stream
    from omniform.engine.guide import Guide as Guide
    from omniform.engine.manager import ContinuousBatchingManager as ContinuousBatchingManager
    from omniform.engine.processors import *  # noqa: F403
    from omniform.engine.streamers import AsyncTextIteratorStreamer as AsyncTextIteratorStreamer
    from omniform.engine.streamers import BaseStreamer as BaseStreamer
    from omniform.engine.streamers import RowStreamer as RowStreamer
    from omniform.engine.streamers import RowTextIteratorStreamer as RowTextIteratorStreamer
    from omniform.engine.streamers import RowTextStreamer as RowTextStreamer
    from omniform.engine.streamers import TextIteratorStreamer as TextIteratorStreamer
    from omniform.engine.streamers import TextStreamer as TextStreamer
    from omniform.engine.watermark import WatermarkDetector as WatermarkDetector
    from omniform.engine.watermark import WatermarkDetectorOutput as WatermarkDetectorOutput
    from omniform.export.eject import eject as eject
    from omniform.export.modular import convert_modular as convert_modular
    from omniform.export.onnx.running import ExportedModel as ExportedModel
    from omniform.export.onnx.running import OnnxModel as OnnxModel
    from omniform.hub.auto import *  # noqa: F403
    from omniform.hub.auto_inputs import AutoFeatureExtractor as AutoFeatureExtractor
    from omniform.hub.auto_inputs import AutoImageProcessor as AutoImageProcessor
    from omniform.hub.auto_inputs import AutoProcessor as AutoProcessor
    from omniform.hub.auto_inputs import AutoTokenizer as AutoTokenizer
    from omniform.hub.auto_videos import AutoVideoProcessor as AutoVideoProcessor
    from omniform.hub.auto_waiting import *  # noqa: F403
    from omniform.hub.awaited import *  # noqa: F403
    from omniform.hub.bundled import bundled_checkpoint as bundled_checkpoint
    from omniform.hub.cards import create_and_tag_model_card as create_and_tag_model_card
    from omniform.hub.lookup import cached_file as cached_file
    from omniform.hub.lookup import cached_files as cached_files
    from omniform.hub.lookup import extract_commit_hash as extract_commit_hash
    from omniform.hub.lookup import file_exists as file_exists
    from omniform.hub.lookup import get_token as get_token
    from omniform.hub.lookup import has_file as has_file
    from omniform.hub.lookup import is_offline_mode as is_offline_mode
    from omniform.hub.lookup import list_repo_templates as list_repo_templates
    from omniform.hub.lookup import login as login
    from omniform.hub.lookup import logout as logout
    from omniform.hub.mappings import *  # noqa: F403
    from omniform.hub.plan import plan as plan
    from omniform.inputs.audio import FeatureExtractionMixin as FeatureExtractionMixin
    from omniform.inputs.audio import SequenceFeatureExtractor as SequenceFeatureExtractor
    from omniform.inputs.images import BaseImageProcessor as BaseImageProcessor
    from omniform.inputs.images import ImageProcessingMixin as ImageProcessingMixin
    from omniform.inputs.media_access import MediaAccess as MediaAccess
    from omniform.inputs.processors import *  # noqa: F403
    from omniform.inputs.text.classes import PreTrainedTokenizer as PreTrainedTokenizer
    from omniform.inputs.text.classes import PreTrainedTokenizerBase as PreTrainedTokenizerBase
    from omniform.inputs.text.classes import PreTrainedTokenizerFast as PreTrainedTokenizerFast
    from omniform.inputs.text.encoding import BatchEncoding as BatchEncoding
    from omniform.inputs.text.own.pieces import SentencePieceBackend as SentencePieceBackend
    from omniform.inputs.text.own.strategies import EncodedInput as EncodedInput
    from omniform.inputs.text.own.strategies import PaddingStrategy as PaddingStrategy
    from omniform.inputs.text.own.strategies import PreTokenizedInput as PreTokenizedInput
    from omniform.inputs.text.own.strategies import TensorType as TensorType
    from omniform.inputs.text.own.strategies import TextInput as TextInput
    from omniform.inputs.text.own.strategies import TruncationStrategy as TruncationStrategy
    from omniform.pipelines import PIPELINE_REGISTRY as PIPELINE_REGISTRY
    from omniform.pipelines import ChunkPipeline as ChunkPipeline
    from omniform.pipelines import Pipeline as Pipeline
    from omniform.pipelines import pipeline as pipeline
    from omniform.train.adafactor import Adafactor as Adafactor
    from omniform.train.arguments import Seq2SeqTrainingArguments as Seq2SeqTrainingArguments
    from omniform.train.arguments import TrainingArguments as TrainingArguments
    from omniform.train.between import torch_distributed_zero_first as torch_distributed_zero_first
    from omniform.train.callbacks import DefaultFlowCallback as DefaultFlowCallback
    from omniform.train.callbacks import EarlyStoppingCallback as EarlyStoppingCallback
    from omniform.train.callbacks import PrinterCallback as PrinterCallback
    from omniform.train.callbacks import TrainerCallback as TrainerCallback
    from omniform.train.collators import *  # noqa: F403
    from omniform.train.greedy import GreedyLR as GreedyLR
    from omniform.train.guard import LossGuard as LossGuard
    from omniform.train.intervals import HubStrategy as HubStrategy
    from omniform.train.intervals import IntervalStrategy as IntervalStrategy
    from omniform.train.intervals import SaveStrategy as SaveStrategy
    from omniform.train.intervals import SchedulerType as SchedulerType
    from omniform.train.metrics import EvalPrediction as EvalPrediction
    from omniform.train.parser import HfArgumentParser as HfArgumentParser
    from omniform.train.progress import ProgressCallback as ProgressCallback
    from omniform.train.reporting.available import is_clearml_available as is_clearml_available
    from omniform.train.reporting.available import is_comet_available as is_comet_available
    from omniform.train.reporting.available import is_dvclive_available as is_dvclive_available
    from omniform.train.reporting.available import is_neptune_available as is_neptune_available
    from omniform.train.reporting.available import is_optuna_available as is_optuna_available
    from omniform.train.reporting.available import is_ray_available as is_ray_available
    from omniform.train.reporting.available import is_ray_tune_available as is_ray_tune_available
    from omniform.train.reporting.available import is_swanlab_available as is_swanlab_available
    from omniform.train.reporting.available import is_tensorboard_available as is_tensorboard_available
    from omniform.train.reporting.available import is_trackio_available as is_trackio_available
    from omniform.train.reporting.available import is_wandb_available as is_wandb_available
    from omniform.train.schedulers import *  # noqa: F403  # noqa: F403
    from omniform.train.seq2seq import Seq2SeqTrainer as Seq2SeqTrainer
    from omniform.train.state import ExportableState as ExportableState
    from omniform.train.state import TrainerControl as TrainerControl
    from omniform.train.state import TrainerState as TrainerState
    from omniform.train.trainer import Trainer as Trainer

sys.meta_path.append(Paths())

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if name == "logging":
        return import_module("omniform.utils.logging")
    if name in PATHS:
        return import_module(f"omniform.{name}")
    if home is not None:
        with paused():
            value: object = vars(import_module(home))[name]
    else:
        # A class of a tokenizer (``BertTokenizer``) or of a family (``LlavaModel``, ``LlavaConfig``).
        ways = (
            (_tokenizer, _of_family, _of_task, _of_inputs, _of_auto, _awaited) if name[:1].isupper() else (_is_there,)
        )
        value = next((found for way in ways if (found := way(name)) is not None), None)
        if value is None:
            raise AttributeError(f"module 'omniform' has no attribute {name!r}")
    globals()[name] = value
    return value


def _tokenizer(name: str) -> object:
    if not name.endswith(("Tokenizer", "TokenizerFast", "TokenizersBackend", "PythonBackend")):
        return None
    from omniform.inputs.text import classes

    return classes.class_named(name) if name in classes.names() else None


def _of_task(name: str) -> object:
    if not name.endswith("Pipeline"):
        return None
    with paused():
        home = import_module("omniform.pipelines")
    found: object = home.__getattr__(name)
    return found


def _of_inputs(name: str) -> object:
    """A processor of pictures, videos or sounds by its kind (``ViTImageProcessor``, ``WhisperFeatureExtractor``)."""
    if name.endswith("VideoProcessor"):
        from omniform.inputs.videos.kinds import VIDEO_PROCESSORS

        return VIDEO_PROCESSORS.get(name)
    if name.endswith(("Processor", "ProcessorWithLM")) and not name.endswith("ImageProcessor"):
        from omniform.inputs.processors import PROCESSORS

        return PROCESSORS.get(name)
    if not name.endswith(("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")):
        return None
    if name.endswith("FeatureExtractor"):  # of sounds, or as image processors were called once
        from omniform.inputs.audio.registry import FEATURE_EXTRACTORS

        if (sounds := FEATURE_EXTRACTORS.get(name)) is not None:
            return sounds
    from omniform.inputs.images.classes import any_class_named

    return any_class_named(name)


def _of_auto(name: str) -> object:
    """An Auto class whose families are yet to come (``AutoModelForRNNT``), or a mapping of configs to classes."""
    if name.isupper() and "_MAPPING" not in name:  # names of files
        return vars(import_module("omniform.core.idioms")).get(name) if name in _FILES else None
    if not (name.startswith("Auto") or "_MAPPING" in name):
        return None
    home = vars(import_module(f"omniform.hub.{'auto_waiting' if name.startswith('Auto') else 'mappings'}"))
    return home[name] if name in home["__all__"] else None


def _awaited(name: str) -> object:
    """A class that scripts import, and that is yet to come."""
    home = vars(import_module("omniform.hub.awaited"))
    return home[name] if name in home["__all__"] else None


def _is_there(name: str) -> object:
    """A question whether something is installed (``is_datasets_available``)."""
    if not name.startswith("is_"):
        return None
    homes = (vars(import_module(f"omniform.core.{file}")) for file in ("installed", "runtime"))
    return next((home[name] for home in homes if name in home["__all__"]), None)


def _of_family(name: str) -> object:
    # That family's file is read, and no other.
    file = import_module("omniform.models.index").CLASSES.get(name)
    if file is None:
        return None
    with paused():
        return vars(import_module(f"omniform.models.{file}"))[name]


def __dir__() -> list[str]:
    return sorted({*__all__, *import_module("omniform.models.index").CLASSES})
