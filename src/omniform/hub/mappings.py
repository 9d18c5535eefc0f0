"""Which classes belong to which configs and tasks, as the ecosystem's mappings tell it.

``list(MODEL_FOR_CAUSAL_LM_MAPPING)`` are classes of configs, ``MODEL_FOR_CAUSAL_LM_MAPPING[LlamaConfig]`` is a class of
models, and ``MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["llama"]`` its name. They are read from the families when they are
asked, and hold what users registered with the Auto classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from omniform.core.config import ModelConfig
from omniform.hub import auto, auto_waiting, own
from omniform.models import index, registry


class ConfigClasses(Mapping[str, type[ModelConfig]]):
    """Classes of configs by ``model_type``."""

    def __getitem__(self, model_type: str) -> type[ModelConfig]:
        found = registry.config_class(model_type) if isinstance(model_type, str) else None
        if found is None:
            raise KeyError(model_type)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(registry.known_families())

    def __len__(self) -> int:
        return len(registry.known_families())


class ConfigNames(Mapping[str, str]):
    """Class names of configs by ``model_type``."""

    def __getitem__(self, model_type: str) -> str:
        return CONFIG_MAPPING[model_type].__name__

    def __iter__(self) -> Iterator[str]:
        return iter(CONFIG_MAPPING)

    def __len__(self) -> int:
        return len(CONFIG_MAPPING)


def _kind(model_type: str, door: type[auto.AutoModel]) -> str | None:
    """The class of a family that an Auto class takes; None where it takes none."""
    for task in door.tasks:
        for architecture in registry.family(model_type).architectures.values():
            if task in architecture.tasks:
                return architecture.name
    return None


@dataclass(frozen=True, slots=True, eq=False)
class ModelNames(Mapping[str, str]):
    """Class names of models for one task by ``model_type``."""

    door: type[auto.AutoModel]

    def __getitem__(self, model_type: str) -> str:
        found = _kind(model_type, self.door) if model_type in index.FAMILIES else None
        if found is None:
            raise KeyError(model_type)
        return found

    def __iter__(self) -> Iterator[str]:
        return (model_type for model_type in index.FAMILIES if _kind(model_type, self.door) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True, eq=False)
class InputNames(Mapping[str, str]):
    """Class names of tokenizers, or of processors of one kind, by ``model_type``."""

    table: Mapping[str, str]

    def __getitem__(self, model_type: str) -> str:
        return self.table[model_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True, slots=True, eq=False)
class Classes(Mapping[type[ModelConfig], type]):
    """Classes by the class of their config: the families' own, and what was registered with an Auto class."""

    auto: str
    names: Mapping[str, str]

    def __getitem__(self, config: type[ModelConfig]) -> type:
        mine = own.registered(self.auto, config=config)
        if mine is not None:
            return mine
        if not (isinstance(config, type) and issubclass(config, ModelConfig)) or config.model_type not in self.names:
            raise KeyError(config)
        return cast(type, vars(import_module("omniform"))["__getattr__"](self.names[config.model_type]))

    def __iter__(self) -> Iterator[type[ModelConfig]]:
        given = own.configs_of(self.auto)
        families = (registry.family(model_type).config_class for model_type in self.names)
        return iter(dict.fromkeys([*families, *given]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def register(self, key: type[ModelConfig], value: type, exist_ok: bool = False) -> None:
        """Have the Auto class load what belongs to a class of configs as a class of the user's own."""
        own.register(self.auto, key, value, object, exist_ok=exist_ok)


def _models(door: type[auto.AutoModel]) -> Classes:
    return Classes(door.__name__, ModelNames(door))


CONFIG_MAPPING = ConfigClasses()
CONFIG_MAPPING_NAMES = ConfigNames()
TOKENIZER_MAPPING_NAMES = InputNames(index.TOKENIZERS)
TOKENIZER_MAPPING = Classes("AutoTokenizer", TOKENIZER_MAPPING_NAMES)
IMAGE_PROCESSOR_MAPPING_NAMES = InputNames(index.IMAGE_PROCESSORS)
IMAGE_PROCESSOR_MAPPING = Classes("AutoImageProcessor", IMAGE_PROCESSOR_MAPPING_NAMES)
FEATURE_EXTRACTOR_MAPPING_NAMES = InputNames(index.FEATURE_EXTRACTORS)
FEATURE_EXTRACTOR_MAPPING = Classes("AutoFeatureExtractor", FEATURE_EXTRACTOR_MAPPING_NAMES)
PROCESSOR_MAPPING_NAMES = InputNames(index.PROCESSORS)
PROCESSOR_MAPPING = Classes("AutoProcessor", PROCESSOR_MAPPING_NAMES)

MODEL_MAPPING = _models(auto.AutoModel)
MODEL_MAPPING_NAMES = MODEL_MAPPING.names
MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING = _models(auto.AutoModelForAudioClassification)
MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES = MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING.names
MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING = _models(auto.AutoModelForAudioFrameClassification)
MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING_NAMES = MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING.names
MODEL_FOR_AUDIO_TOKENIZATION_MAPPING = _models(auto.AutoModelForAudioTokenization)
MODEL_FOR_AUDIO_TOKENIZATION_MAPPING_NAMES = MODEL_FOR_AUDIO_TOKENIZATION_MAPPING.names
MODEL_FOR_AUDIO_XVECTOR_MAPPING = _models(auto.AutoModelForAudioXVector)
MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES = MODEL_FOR_AUDIO_XVECTOR_MAPPING.names
MODEL_FOR_CAUSAL_LM_MAPPING = _models(auto.AutoModelForCausalLM)
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = MODEL_FOR_CAUSAL_LM_MAPPING.names
MODEL_FOR_CTC_MAPPING = _models(auto.AutoModelForCTC)
MODEL_FOR_CTC_MAPPING_NAMES = MODEL_FOR_CTC_MAPPING.names
MODEL_FOR_DECISION_MAPPING = _models(auto_waiting.AutoModelForDecision)
MODEL_FOR_DECISION_MAPPING_NAMES = MODEL_FOR_DECISION_MAPPING.names
MODEL_FOR_DEPTH_ESTIMATION_MAPPING = _models(auto.AutoModelForDepthEstimation)
MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES = MODEL_FOR_DEPTH_ESTIMATION_MAPPING.names
MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING = _models(auto.AutoModelForDocumentQuestionAnswering)
MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING_NAMES = MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING.names
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING = _models(auto.AutoModelForImageClassification)
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.names
MODEL_FOR_IMAGE_MATTING_MAPPING = _models(auto_waiting.AutoModelForImageMatting)
MODEL_FOR_IMAGE_MATTING_MAPPING_NAMES = MODEL_FOR_IMAGE_MATTING_MAPPING.names
MODEL_FOR_IMAGE_SEGMENTATION_MAPPING = _models(auto.AutoModelForImageSegmentation)
MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES = MODEL_FOR_IMAGE_SEGMENTATION_MAPPING.names
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING = _models(auto.AutoModelForImageTextToText)
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.names
MODEL_FOR_IMAGE_TO_IMAGE_MAPPING = _models(auto_waiting.AutoModelForImageToImage)
MODEL_FOR_IMAGE_TO_IMAGE_MAPPING_NAMES = MODEL_FOR_IMAGE_TO_IMAGE_MAPPING.names
MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING = _models(auto.AutoModelForInstanceSegmentation)
MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES = MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING.names
MODEL_FOR_KEYPOINT_DETECTION_MAPPING = _models(auto_waiting.AutoModelForKeypointDetection)
MODEL_FOR_KEYPOINT_DETECTION_MAPPING_NAMES = MODEL_FOR_KEYPOINT_DETECTION_MAPPING.names
MODEL_FOR_KEYPOINT_MATCHING_MAPPING = _models(auto_waiting.AutoModelForKeypointMatching)
MODEL_FOR_KEYPOINT_MATCHING_MAPPING_NAMES = MODEL_FOR_KEYPOINT_MATCHING_MAPPING.names
MODEL_FOR_MASK_GENERATION_MAPPING = _models(auto.AutoModelForMaskGeneration)
MODEL_FOR_MASK_GENERATION_MAPPING_NAMES = MODEL_FOR_MASK_GENERATION_MAPPING.names
MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING = _models(auto.AutoModelForMaskedImageModeling)
MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES = MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING.names
MODEL_FOR_MASKED_LM_MAPPING = _models(auto.AutoModelForMaskedLM)
MODEL_FOR_MASKED_LM_MAPPING_NAMES = MODEL_FOR_MASKED_LM_MAPPING.names
MODEL_FOR_MULTIMODAL_LM_MAPPING = _models(auto.AutoModelForMultimodalLM)
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES = MODEL_FOR_MULTIMODAL_LM_MAPPING.names
MODEL_FOR_MULTIPLE_CHOICE_MAPPING = _models(auto.AutoModelForMultipleChoice)
MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES = MODEL_FOR_MULTIPLE_CHOICE_MAPPING.names
MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING = _models(auto.AutoModelForNextSentencePrediction)
MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES = MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING.names
MODEL_FOR_NORMAL_ESTIMATION_MAPPING = _models(auto_waiting.AutoModelForNormalEstimation)
MODEL_FOR_NORMAL_ESTIMATION_MAPPING_NAMES = MODEL_FOR_NORMAL_ESTIMATION_MAPPING.names
MODEL_FOR_OBJECT_DETECTION_MAPPING = _models(auto.AutoModelForObjectDetection)
MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES = MODEL_FOR_OBJECT_DETECTION_MAPPING.names
MODEL_FOR_POINTMAP_ESTIMATION_MAPPING = _models(auto_waiting.AutoModelForPointmapEstimation)
MODEL_FOR_POINTMAP_ESTIMATION_MAPPING_NAMES = MODEL_FOR_POINTMAP_ESTIMATION_MAPPING.names
MODEL_FOR_POSE_ESTIMATION_MAPPING = _models(auto_waiting.AutoModelForPoseEstimation)
MODEL_FOR_POSE_ESTIMATION_MAPPING_NAMES = MODEL_FOR_POSE_ESTIMATION_MAPPING.names
MODEL_FOR_PRETRAINING_MAPPING = _models(auto.AutoModelForPreTraining)
MODEL_FOR_PRETRAINING_MAPPING_NAMES = MODEL_FOR_PRETRAINING_MAPPING.names
MODEL_FOR_QUESTION_ANSWERING_MAPPING = _models(auto.AutoModelForQuestionAnswering)
MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES = MODEL_FOR_QUESTION_ANSWERING_MAPPING.names
MODEL_FOR_RNNT_MAPPING = _models(auto_waiting.AutoModelForRNNT)
MODEL_FOR_RNNT_MAPPING_NAMES = MODEL_FOR_RNNT_MAPPING.names
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING = _models(auto.AutoModelForSemanticSegmentation)
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES = MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING.names
MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING = _models(auto.AutoModelForSeq2SeqLM)
MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING.names
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING = _models(auto.AutoModelForSequenceClassification)
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.names
MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING = _models(auto.AutoModelForSpeechSeq2Seq)
MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES = MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING.names
MODEL_FOR_TDT_MAPPING = _models(auto_waiting.AutoModelForTDT)
MODEL_FOR_TDT_MAPPING_NAMES = MODEL_FOR_TDT_MAPPING.names
MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING = _models(auto_waiting.AutoModelForTableQuestionAnswering)
MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING_NAMES = MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING.names
MODEL_FOR_TABLE_RECOGNITION_MAPPING = _models(auto_waiting.AutoModelForTableRecognition)
MODEL_FOR_TABLE_RECOGNITION_MAPPING_NAMES = MODEL_FOR_TABLE_RECOGNITION_MAPPING.names
MODEL_FOR_TEXT_ENCODING_MAPPING = _models(auto.AutoModelForTextEncoding)
MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES = MODEL_FOR_TEXT_ENCODING_MAPPING.names
MODEL_FOR_TEXT_RECOGNITION_MAPPING = _models(auto_waiting.AutoModelForTextRecognition)
MODEL_FOR_TEXT_RECOGNITION_MAPPING_NAMES = MODEL_FOR_TEXT_RECOGNITION_MAPPING.names
MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING = _models(auto.AutoModelForTextToSpectrogram)
MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES = MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING.names
MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING = _models(auto.AutoModelForTextToWaveform)
MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES = MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING.names
MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING = _models(auto_waiting.AutoModelForTimeSeriesPrediction)
MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING_NAMES = MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING.names
MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING = _models(auto.AutoModelForTokenClassification)
MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING.names
MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING = _models(auto.AutoModelForUniversalSegmentation)
MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES = MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING.names
MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING = _models(auto.AutoModelForVideoClassification)
MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES = MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING.names
MODEL_FOR_VISION_2_SEQ_MAPPING = _models(auto.AutoModelForVision2Seq)
MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES = MODEL_FOR_VISION_2_SEQ_MAPPING.names
MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING = _models(auto.AutoModelForVisualQuestionAnswering)
MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES = MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING.names
MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING = _models(auto.AutoModelForZeroShotImageClassification)
MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES = MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING.names
MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING = _models(auto.AutoModelForZeroShotObjectDetection)
MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES = MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING.names
MODEL_FOR_BACKBONE_MAPPING = _models(auto.AutoBackbone)
MODEL_FOR_BACKBONE_MAPPING_NAMES = MODEL_FOR_BACKBONE_MAPPING.names


def get_values(model_mapping: Mapping[type[ModelConfig], type]) -> list[type]:
    """All classes of models that a mapping holds."""
    return list(model_mapping.values())


__all__ = [
    "CONFIG_MAPPING",
    "CONFIG_MAPPING_NAMES",
    "FEATURE_EXTRACTOR_MAPPING",
    "FEATURE_EXTRACTOR_MAPPING_NAMES",
    "IMAGE_PROCESSOR_MAPPING",
    "IMAGE_PROCESSOR_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING",
    "MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_TOKENIZATION_MAPPING",
    "MODEL_FOR_AUDIO_TOKENIZATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_XVECTOR_MAPPING",
    "MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES",
    "MODEL_FOR_BACKBONE_MAPPING",
    "MODEL_FOR_BACKBONE_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_CTC_MAPPING",
    "MODEL_FOR_CTC_MAPPING_NAMES",
    "MODEL_FOR_DECISION_MAPPING",
    "MODEL_FOR_DECISION_MAPPING_NAMES",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    "MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING",
    "MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_MATTING_MAPPING",
    "MODEL_FOR_IMAGE_MATTING_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_SEGMENTATION_MAPPING",
    "MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TO_IMAGE_MAPPING",
    "MODEL_FOR_IMAGE_TO_IMAGE_MAPPING_NAMES",
    "MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING",
    "MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_KEYPOINT_DETECTION_MAPPING",
    "MODEL_FOR_KEYPOINT_DETECTION_MAPPING_NAMES",
    "MODEL_FOR_KEYPOINT_MATCHING_MAPPING",
    "MODEL_FOR_KEYPOINT_MATCHING_MAPPING_NAMES",
    "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING",
    "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_MASK_GENERATION_MAPPING",
    "MODEL_FOR_MASK_GENERATION_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
    "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING",
    "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES",
    "MODEL_FOR_NORMAL_ESTIMATION_MAPPING",
    "MODEL_FOR_NORMAL_ESTIMATION_MAPPING_NAMES",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "MODEL_FOR_POINTMAP_ESTIMATION_MAPPING",
    "MODEL_FOR_POINTMAP_ESTIMATION_MAPPING_NAMES",
    "MODEL_FOR_POSE_ESTIMATION_MAPPING",
    "MODEL_FOR_POSE_ESTIMATION_MAPPING_NAMES",
    "MODEL_FOR_PRETRAINING_MAPPING",
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_RNNT_MAPPING",
    "MODEL_FOR_RNNT_MAPPING_NAMES",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING",
    "MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_TABLE_RECOGNITION_MAPPING",
    "MODEL_FOR_TABLE_RECOGNITION_MAPPING_NAMES",
    "MODEL_FOR_TDT_MAPPING",
    "MODEL_FOR_TDT_MAPPING_NAMES",
    "MODEL_FOR_TEXT_ENCODING_MAPPING",
    "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES",
    "MODEL_FOR_TEXT_RECOGNITION_MAPPING",
    "MODEL_FOR_TEXT_RECOGNITION_MAPPING_NAMES",
    "MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING",
    "MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES",
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING",
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES",
    "MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING",
    "MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING",
    "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING",
    "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_VISION_2_SEQ_MAPPING",
    "MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING",
    "MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING",
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING",
    "MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES",
    "MODEL_MAPPING",
    "MODEL_MAPPING_NAMES",
    "PROCESSOR_MAPPING",
    "PROCESSOR_MAPPING_NAMES",
    "TOKENIZER_MAPPING",
    "TOKENIZER_MAPPING_NAMES",
    "get_values",
]
