"""The Auto classes for configs and models: thin doors that read a config, pick an architecture and load it."""

from __future__ import annotations

import sys
from typing import ClassVar, cast

from omniform.architectures.family import Family, Task
from omniform.architectures.model import Model
from omniform.architectures.named import PreTrainedModel
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, OmniformError, UnknownNameError, check_arguments
from omniform.core.own_config import is_own
from omniform.hub import own
from omniform.hub.checkpoint import Name, changed, fresh, load, load_config
from omniform.hub.code.mode import lets_run
from omniform.hub.options import refuse
from omniform.hub.remote import together
from omniform.models import registry


class AutoConfig:
    """Reads a checkpoint's config."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Name, **kwargs: object) -> ModelConfig:
        """The config of a folder or a Hub id, with some keys changed by keyword.

        Args:
            kwargs: where to look (``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``,
                ``subfolder``), and config keys to change. ``trust_remote_code=True`` reads it as the class that the
                checkpoint brings, and ``code_revision`` says which version of that; see :mod:`omniform.hub.code`.

        Raises:
            TrustError, CodeError, DependencyError: the class that the checkpoint brings cannot be used.
            RepoError: there is no such folder or repository.
            ConfigError: the file is no JSON, or holds an unsupported value.
            UnknownNameError: an unknown ``model_type``.
            UnknownArgumentError: a keyword that is neither.
        """
        with together():
            if lets_run(kwargs):
                from omniform.hub.code import doors

                named = doors.config_of(pretrained_model_name_or_path, kwargs)
                if named is not None:
                    return cast(ModelConfig, named)
            return load_config(ModelConfig, pretrained_model_name_or_path, **kwargs)

    @classmethod
    def for_model(cls, model_type: str, **kwargs: object) -> ModelConfig:
        """A config made from scratch: a family's defaults, with some keys changed."""
        mine = registry.config_class(model_type) if isinstance(model_type, str) else None
        if mine is not None and is_own(mine):
            return mine(**kwargs)
        config = registry.config_of({"model_type": model_type}, where="AutoConfig.for_model")
        return changed(config, kwargs, "AutoConfig.for_model", ())

    @staticmethod
    def register(model_type: str | Family, config: type[ModelConfig] | None = None, exist_ok: bool = False) -> None:
        """Add a family of the user's own, or a class of configs for a ``model_type``.

        Raises:
            InputError: this is no class of configs, or one of another ``model_type``.
            ConfigError: the ``model_type`` is taken, and ``exist_ok`` is False.
        """
        if isinstance(model_type, Family):
            registry.register(model_type)
        else:
            registry.register_config(model_type, config, exist_ok=exist_ok)


class AutoModel:
    """Loads a model for one task; the subclasses name the others.

    ``AutoModel`` itself gives the base model: hidden states, no head.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("base",)

    def __init__(self) -> None:
        raise OmniformError(
            f"{type(self).__name__} is not built directly",
            remedy=f"Use {type(self).__name__}.from_pretrained(...) or .from_config(...).",
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Name, **kwargs: object) -> Model:
        """Load a checkpoint from a folder or a Hub id.

        Args:
            kwargs: where to look (see :meth:`AutoConfig.from_pretrained`); how to load:

                - ``config``: a config to use instead of the checkpoint's.
                - ``dtype``: a torch dtype, its name, or ``"auto"`` (the checkpoint's own, and the default).
                - ``device_map``: a device; ``"auto"`` (or ``"balanced"``, ``"balanced_low_0"``, ``"sequential"``) to
                  spread over accelerators, memory and disk; or a mapping of module paths, spelled as in the checkpoint,
                  to devices, ``"cpu"`` or ``"disk"``. ``model.hf_device_map`` tells what came of it.
                - ``tp_plan``, ``pp_plan``: ``"auto"`` in every process of ``torchrun``, to divide each layer among
                  them, or to have layers lie in them one after another; ``tp_size`` and ``pp_size``, a
                  ``device_mesh`` or a ``distributed_config`` say among how many.
                - ``max_memory``: how much each device may hold, ``{0: "8GB", "cpu": "30GiB"}``.
                - ``offload_folder``: where weights are kept that go to disk in another dtype than the checkpoint's.
                - ``variant``: which files (``"fp16"`` for ``model.fp16.safetensors``).
                - ``use_safetensors``: True or False to read only those, or only ``.bin`` files.
                - ``attn_implementation``: the attention kernel: ``"sdpa"``, ``"eager"``, ``"native"``,
                  ``"flex_attention"``, ``"flash_attention_2"`` or ``"flash_attention_3"``; or a mapping of the keys of
                  the configs within (``"text_config"``) to such names.
                - ``target_lang``: the language that a model with adapters of languages (MMS) writes.
                - ``ignore_mismatched_sizes``: make tensors of the wrong shape anew.
                - ``output_loading_info``: return ``(model, report)``.
                - ``generation_config``: settings for ``generate`` instead of the checkpoint's.
                - ``disable_mmap``: read the weights into memory instead of mapping them.
                - ``state_dict``: weights to use instead of the files', by our names or the Hub's; with a ``config``,
                  the checkpoint's name may be None.
                - ``trust_remote_code``: True to load it as the class that the checkpoint brings, where it names one
                  for this Auto class; what comes back is then what that class loads. The code is shown the first time,
                  and asked about when it has changed (:mod:`omniform.hub.code`).
                - ``code_revision``: which version of that code.
                - ``add_pooling_layer``: False to leave out the pooler of a base model.

                Any other keyword is a config key to change (``num_labels=3``).

        Raises:
            RepoError, ConfigError, WeightsError, UnknownNameError, UnknownArgumentError: see those classes.
        """
        with together():
            if lets_run(kwargs):
                from omniform.hub.code import doors

                named = doors.model_of(cls.__name__, pretrained_model_name_or_path, kwargs)
                if named is not None:
                    return cast(Model, named)
            return load(pretrained_model_name_or_path, cls.choose, f"{cls.__name__}.from_pretrained", kwargs)

    @classmethod
    def from_config(cls, config: ModelConfig, **kwargs: object) -> Model:
        """A model with fresh weights, in training mode.

        Args:
            config: from :class:`AutoConfig`.
            kwargs: ``dtype``, ``attn_implementation``.

        Raises:
            InputError: this is no config; no such dtype or implementation.
            UnknownNameError: the family has no such head.
            UnknownArgumentError: another keyword.
        """
        callee = f"{cls.__name__}.from_config"
        if lets_run(kwargs):
            from omniform.hub.code import doors

            named = doors.model_from(cls.__name__, config, kwargs)
            if named is not None:
                return cast(Model, named)
        known = ("dtype", "torch_dtype", "attn_implementation", "trust_remote_code", "code_revision")
        check_arguments(callee, kwargs, known)
        refuse(kwargs)
        if not isinstance(config, ModelConfig):
            raise InputError("not a config", where=callee, expected="a ModelConfig", found=type(config).__name__)
        config, kind = cls.choose(config)
        return fresh(config, kind, kwargs)

    @classmethod
    def choose(cls, config: ModelConfig) -> tuple[ModelConfig, type[PreTrainedModel]]:
        """The family's class for this class's task; the one that the config names, if it does the task.

        Raises:
            UnknownNameError: the family has no such head.
        """
        mine = own.registered(cls.__name__, config=type(config))
        if mine is not None:
            return config, cast("type[PreTrainedModel]", mine)
        family = registry.family(config.model_type)
        for task in cls.tasks:
            able = [a for a in family.architectures.values() if task in a.tasks]
            named = [a for a in able if a.name in config.common.architectures]
            if able:
                return config, family.classes[(named or able)[0].name]
        heads = sorted({task for a in family.architectures.values() for task in a.tasks})
        raise UnknownNameError(
            f"{config.model_type} models have no head for {cls.__name__}",
            expected=f"one of its tasks: {', '.join(heads)}",
            remedy="Another Auto class loads this checkpoint.",
        )

    @classmethod
    def register(
        cls, config_class: type[ModelConfig], model_class: type[PreTrainedModel], exist_ok: bool = False
    ) -> None:
        """Load checkpoints whose configs are of a class as a class of the user's own.

        Raises:
            InputError: these are no classes of configs and models.
            ConfigError: the config's class has a model here, and ``exist_ok`` is False.
        """
        if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
            said = model_class.config_class
            if isinstance(config_class, type) and said is not ModelConfig and said.__name__ != config_class.__name__:
                raise InputError(
                    "the model says another class of configs",
                    where=f"{cls.__name__}.register: {model_class.__name__}.config_class",
                    expected=config_class.__name__,
                    found=said.__name__,
                )
        own.register(cls.__name__, config_class, model_class, PreTrainedModel, exist_ok=exist_ok)


class AutoModelForCausalLM(AutoModel):
    """Models that write text from left to right."""

    tasks = ("causal-lm",)


class AutoModelForMaskedLM(AutoModel):
    """Models that fill in masked tokens."""

    tasks = ("masked-lm",)


class AutoModelForPreTraining(AutoModel):
    """Models with the heads they were pre-trained with."""

    tasks = ("pre-training", "masked-lm", "causal-lm", "seq2seq-lm", "image-text-to-text", "multimodal-lm", "base")


class AutoModelForSeq2SeqLM(AutoModel):
    """Encoder-decoders that write text from text."""

    tasks = ("seq2seq-lm",)


class AutoModelForSequenceClassification(AutoModel):
    """Models that classify a text."""

    tasks = ("sequence-classification",)


class AutoModelForTokenClassification(AutoModel):
    """Models that classify every token."""

    tasks = ("token-classification",)


class AutoModelForQuestionAnswering(AutoModel):
    """Models that find an answer's span in a text."""

    tasks = ("question-answering",)


class AutoModelForMultipleChoice(AutoModel):
    """Models that choose among continuations."""

    tasks = ("multiple-choice",)


class AutoModelForNextSentencePrediction(AutoModel):
    """Models that tell whether one sentence follows another."""

    tasks = ("next-sentence-prediction",)


class AutoModelForTextEncoding(AutoModel):
    """The encoder half of a model, for text."""

    tasks = ("text-encoding", "base")


class AutoModelForImageClassification(AutoModel):
    """Models that classify a picture."""

    tasks = ("image-classification",)


class AutoModelForMaskedImageModeling(AutoModel):
    """Models that fill in masked patches."""

    tasks = ("masked-image-modeling",)


class AutoModelForZeroShotImageClassification(AutoModel):
    """Models that compare pictures with texts."""

    tasks = ("zero-shot-image-classification",)


class AutoModelForObjectDetection(AutoModel):
    """Models that find objects and their boxes."""

    tasks = ("object-detection",)


class AutoModelForImageSegmentation(AutoModel):
    """Models that assign pixels to objects or classes."""

    tasks = ("image-segmentation",)


class AutoModelForUniversalSegmentation(AutoModel):
    """Models that segment objects and classes alike."""

    tasks = ("universal-segmentation",)


class AutoModelForDepthEstimation(AutoModel):
    """Models that tell how far away pixels are."""

    tasks = ("depth-estimation",)


class AutoModelForInstanceSegmentation(AutoModel):
    """Models that find the pixels of every object."""

    tasks = ("instance-segmentation",)


class AutoModelForMaskGeneration(AutoModel):
    """Models that find the pixels of what is pointed at."""

    tasks = ("mask-generation",)


class AutoModelForSemanticSegmentation(AutoModel):
    """Models that classify every pixel."""

    tasks = ("semantic-segmentation",)


class AutoModelForVideoClassification(AutoModel):
    """Models that classify a video."""

    tasks = ("video-classification",)


class AutoBackbone(AutoModel):
    """Models of pictures that give maps of several stages, for another model to stand on."""

    tasks = ("backbone",)


class AutoModelForAudioClassification(AutoModel):
    """Models that classify a sound."""

    tasks = ("audio-classification",)


class AutoModelForAudioFrameClassification(AutoModel):
    """Models that classify every moment of a sound."""

    tasks = ("audio-frame-classification",)


class AutoModelForAudioTokenization(AutoModel):
    """Models that turn sounds into tokens."""

    tasks = ("audio-tokenization",)


class AutoModelForAudioXVector(AutoModel):
    """Models that tell voices apart."""

    tasks = ("audio-xvector",)


class AutoModelForCTC(AutoModel):
    """Models that write what is said, letter by letter."""

    tasks = ("ctc",)


class AutoModelForTextToSpectrogram(AutoModel):
    """Models that speak, in spectrograms."""

    tasks = ("text-to-spectrogram",)


class AutoModelForTextToWaveform(AutoModel):
    """Models that speak, in waves."""

    tasks = ("text-to-waveform",)


class AutoModelForSpeechSeq2Seq(AutoModel):
    """Encoder-decoders that write text from speech."""

    tasks = ("speech-seq2seq",)


class AutoModelForVisualQuestionAnswering(AutoModel):
    """Models that answer questions about pictures."""

    tasks = ("visual-question-answering",)


class AutoModelForDocumentQuestionAnswering(AutoModel):
    """Models that answer questions about documents."""

    tasks = ("document-question-answering",)


class AutoModelForZeroShotObjectDetection(AutoModel):
    """Models that find objects which are described."""

    tasks = ("zero-shot-object-detection",)


class AutoModelForImageTextToText(AutoModel):
    """Models that write text from pictures and text."""

    tasks = ("image-text-to-text",)


class AutoModelForVision2Seq(AutoModelForImageTextToText):
    """The older name of :class:`AutoModelForImageTextToText`."""


class AutoModelForMultimodalLM(AutoModel):
    """Models that write text, whatever they read."""

    tasks = ("multimodal-lm", "image-text-to-text", "speech-seq2seq", "causal-lm", "seq2seq-lm")


def tasks_of(kind: type[Model]) -> tuple[Task, ...]:
    """What a model of the user's own does, told from the Auto classes that it is registered with."""
    doors = [vars(sys.modules[__name__])[name] for name in own.autos_of(kind) if name.startswith("AutoModel")]
    return tuple(dict.fromkeys(task for door in doors for task in cast("type[AutoModel]", door).tasks))
