"""What a model card can say of something that is saved: read off the object, nothing of it guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from omniform.architectures.family import Task
from omniform.architectures.model import Model
from omniform.architectures.surface import Surface
from omniform.core.file_names import PREPROCESSOR_FILE, PROCESSOR_FILE
from omniform.core.generation import GenerationConfig
from omniform.hub.stale import ADAPTERS, WEIGHTS
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.weights.adapters import adapted

LIBRARY: Final = "omniform"
_READERS: Final = frozenset({"tokenizer_config.json", PREPROCESSOR_FILE, PROCESSOR_FILE})


@dataclass(frozen=True, slots=True)
class Use:
    """How what does a task is called.

    Attributes:
        tag: the Hub's name of the task (https://huggingface.co/tasks), its ``pipeline_tag``.
        auto: the Auto class that loads such models.
        pipeline: whether :func:`omniform.pipeline` does the task.
    """

    tag: str
    auto: str
    pipeline: str = ""


USES: Final[Mapping[Task, Use]] = {
    "image-text-to-text": Use("image-text-to-text", "AutoModelForImageTextToText"),
    "multimodal-lm": Use("any-to-any", "AutoModelForMultimodalLM"),
    "speech-seq2seq": Use("automatic-speech-recognition", "AutoModelForSpeechSeq2Seq"),
    "causal-lm": Use("text-generation", "AutoModelForCausalLM", "text-generation"),
    "seq2seq-lm": Use("text-generation", "AutoModelForSeq2SeqLM", "text2text-generation"),
    "masked-lm": Use("fill-mask", "AutoModelForMaskedLM", "fill-mask"),
    "sequence-classification": Use("text-classification", "AutoModelForSequenceClassification", "text-classification"),
    "token-classification": Use("token-classification", "AutoModelForTokenClassification", "token-classification"),
    "question-answering": Use("question-answering", "AutoModelForQuestionAnswering", "question-answering"),
    "multiple-choice": Use("multiple-choice", "AutoModelForMultipleChoice"),
    "image-classification": Use("image-classification", "AutoModelForImageClassification"),
    "zero-shot-image-classification": Use("zero-shot-image-classification", "AutoModelForZeroShotImageClassification"),
    "zero-shot-object-detection": Use("zero-shot-object-detection", "AutoModelForZeroShotObjectDetection"),
    "visual-question-answering": Use("visual-question-answering", "AutoModelForVisualQuestionAnswering"),
    "document-question-answering": Use("document-question-answering", "AutoModelForDocumentQuestionAnswering"),
    "object-detection": Use("object-detection", "AutoModelForObjectDetection"),
    "image-segmentation": Use("image-segmentation", "AutoModelForImageSegmentation"),
    "semantic-segmentation": Use("image-segmentation", "AutoModelForSemanticSegmentation"),
    "universal-segmentation": Use("image-segmentation", "AutoModelForUniversalSegmentation"),
    "instance-segmentation": Use("image-segmentation", "AutoModelForInstanceSegmentation"),
    "depth-estimation": Use("depth-estimation", "AutoModelForDepthEstimation"),
    "mask-generation": Use("mask-generation", "AutoModelForMaskGeneration"),
    "video-classification": Use("video-classification", "AutoModelForVideoClassification"),
    "audio-classification": Use("audio-classification", "AutoModelForAudioClassification"),
    "audio-frame-classification": Use("audio-classification", "AutoModelForAudioFrameClassification"),
    "audio-xvector": Use("audio-classification", "AutoModelForAudioXVector"),
    "ctc": Use("automatic-speech-recognition", "AutoModelForCTC"),
    "text-to-spectrogram": Use("text-to-speech", "AutoModelForTextToSpectrogram"),
    "text-to-waveform": Use("text-to-speech", "AutoModelForTextToWaveform"),
    "audio-embedding": Use("feature-extraction", "AutoModel"),
    "text-embedding": Use("feature-extraction", "AutoModel"),
    "image-embedding": Use("image-feature-extraction", "AutoModel"),
    "text-encoding": Use("feature-extraction", "AutoModel", "feature-extraction"),
}
"""The first of a model's tasks that stands here names what it is for."""

_BASES: Final[Mapping[str, Use]] = {
    "input_ids": Use("feature-extraction", "AutoModel", "feature-extraction"),
    "pixel_values": Use("image-feature-extraction", "AutoModel"),
}
"""Models without a head, by their main input."""

_PICTURES: Final = "https://huggingface.co/datasets/mishig/sample_images/resolve/main"
WIDGETS: Final[Mapping[str, Mapping[str, object]]] = {
    "text-generation": {"text": "Once upon a time,"},
    "text-classification": {"text": "I like you. I love you."},
    "token-classification": {"text": "My name is Clara and I live in Berkeley, California."},
    "question-answering": {"text": "Where do I live?", "context": "My name is Sarah and I live in London."},
    "feature-extraction": {"text": "My name is Clara."},
    "image-classification": {"src": f"{_PICTURES}/tiger.jpg", "example_title": "Tiger"},
    "object-detection": {"src": f"{_PICTURES}/savanna.jpg", "example_title": "Savanna"},
    "image-segmentation": {"src": f"{_PICTURES}/savanna.jpg", "example_title": "Savanna"},
    "zero-shot-image-classification": {
        "src": f"{_PICTURES}/cat-dog-music.png",
        "candidate_labels": "playing music, playing sports",
        "example_title": "Cat & Dog",
    },
    "automatic-speech-recognition": {
        "src": "https://cdn-media.huggingface.co/speech_samples/sample1.flac",
        "example_title": "Librispeech sample 1",
    },
}
"""What the Hub's page offers to try a task with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known.

    Attributes:
        repo_id: where it goes.
        kind: its class's name.
        model_type: its family.
        use: what it is for.
        loader: the class whose ``from_pretrained`` loads it.
        library: the ``library_name``.
        base_model: the Hub id that its weights came from.
        relation: to that: ``"adapter"``, ``"quantized"``.
        parameters, nbytes: of all weights.
        dtypes: of the weights, the most frequent first.
        quantization: the method.
        tags: a model's own.
        pipeline: the pipeline that the files are enough for.
        mask: the token that a tokenizer masks with.
        stands_behind: whether the repository has something that matters more, which its card is about.
    """

    repo_id: str
    kind: str
    model_type: str = ""
    use: Use | None = None
    loader: str = ""
    library: str = LIBRARY
    base_model: str = ""
    relation: str = ""
    parameters: int = 0
    nbytes: int = 0
    dtypes: tuple[str, ...] = ()
    quantization: str = ""
    tags: tuple[str, ...] = ()
    pipeline: str = ""
    mask: str = ""
    stands_behind: bool = False

    def metadata(self) -> dict[str, object]:
        """The entries of the card's YAML."""
        made: dict[str, object] = {"library_name": self.library}
        if self.use is not None:
            made["pipeline_tag"] = self.use.tag
        if self.base_model:
            made["base_model"] = self.base_model
        if self.base_model and self.relation:
            made["base_model_relation"] = self.relation
        if self.tags:
            made["tags"] = list(self.tags)
        widget = self._example()
        if widget and self.relation != "adapter":
            made["widget"] = [dict(widget)]
        return made

    def _example(self) -> Mapping[str, object]:
        """What the task is tried with."""
        tag = self.use.tag if self.use is not None else ""
        if tag == "fill-mask" and self.mask:
            return {"text": f"The goal of life is {self.mask}."}
        return WIDGETS.get(tag, {})

    def section(self) -> list[str]:
        """Lines of the card's text."""
        rows = list(self._rows())
        table = ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)] if rows else []
        family = f" of the family `{self.model_type}`" if self.model_type else ""
        code = ["", "## How to use", "", "```python", *self._code(), "```"]
        article = "An" if self.kind[:1] in "AEIO" else "A"
        adapts = self.relation == "adapter"
        what = f"An adapter of {article.lower()} `{self.kind}`" if adapts else f"{article} `{self.kind}`"
        return ["", f"{what}{family}, saved with omniform.", *table, *code, ""]

    def code_beside(self) -> list[str]:
        """The code of the model that is there already, if a tokenizer that comes now makes a pipeline of it."""
        if self.loader != "AutoTokenizer" or self.use is None or not self.use.pipeline:
            return []
        return replace(self, pipeline=self.use.pipeline)._code()

    def _rows(self) -> Iterator[tuple[str, str]]:
        if self.use is not None:
            yield "task", self.use.tag
        if self.base_model:
            yield "base model", f"[{self.base_model}](https://huggingface.co/{self.base_model})"
        if self.parameters:
            yield "parameters", f"{self.parameters:,}"
            yield "size", f"{in_units(self.nbytes)} in {', '.join(self.dtypes)}"
        if self.quantization:
            yield "quantization", self.quantization

    def _code(self) -> list[str]:
        if self.relation == "adapter" and self.use is not None:
            adapted = f'model = PeftModel.from_pretrained(model, "{self.repo_id}")'
            if not self.base_model:
                return ["from peft import PeftModel", "", "# model: the one that the adapter was trained on", adapted]
            base = f'model = {self.use.auto}.from_pretrained("{self.base_model}")'
            return [f"from omniform import {self.use.auto}", "from peft import PeftModel", "", base, adapted]
        if self.pipeline:
            made = f'pipe = pipeline("{self.pipeline}", model="{self.repo_id}")'
            return ["from omniform import pipeline", "", made, *self._call()]
        return [
            f"from omniform import {self.loader}",
            "",
            f'{NAMES.get(self.loader, "model")} = {self.loader}.from_pretrained("{self.repo_id}")',
        ]

    def _call(self) -> list[str]:
        """A line that calls the pipeline with the widget's example."""
        example = self._example()
        text, context = example.get("text"), example.get("context")
        if text is None:
            return []
        return [f'print(pipe("{text}"))' if context is None else f'print(pipe(question="{text}", context="{context}"))']


@runtime_checkable
class HoldsModel(Protocol):
    """A pipeline: a model, and what reads its inputs."""

    model: object
    tokenizer: object


def facts_of(saved: object, repo_id: str, files: Collection[str] = ()) -> Facts:
    """What is known of a model, a pipeline (its model), or of anything else that is saved.

    Args:
        files: that the repository will have: those of a tokenizer make a pipeline of a model.
    """
    if isinstance(saved, HoldsModel) and isinstance(saved.model, Model):
        facts = facts_of(saved.model, repo_id, files)
        mask = saved.tokenizer.mask_token if isinstance(saved.tokenizer, Tokenizer) else None
        return replace(facts, mask=mask or "")
    if not isinstance(saved, Model):
        loader = _loader(saved)
        mask = saved.mask_token if isinstance(saved, Tokenizer) else None
        behind = any(map(WEIGHTS.fullmatch, files)) or not ADAPTERS.isdisjoint(files)
        if loader in ("AutoConfig", "GenerationConfig"):
            behind = behind or not _READERS.isdisjoint(files)
        kind = type(saved).__name__
        return Facts(repo_id=repo_id, kind=kind, loader=loader, mask=mask or "", stands_behind=behind)
    use = _use(saved)
    is_adapter = next(adapted(saved), None) is not None
    quantization = saved.config.raw.get("quantization_config")
    method = str(quantization.get("quant_method") or "") if isinstance(quantization, Mapping) else ""
    base = _hub_id(saved.name_or_path, repo_id)
    return Facts(
        repo_id=repo_id,
        kind=saved.origin.architecture.name,
        model_type=saved.config.model_type,
        use=use,
        loader=use.auto if use is not None else "AutoModel",
        library="peft" if is_adapter else LIBRARY,
        base_model=base,
        relation="adapter" if is_adapter else "quantized" if method else "",
        quantization=method,
        tags=tuple(saved.model_tags) if isinstance(saved, Surface) else (),
        pipeline=use.pipeline if use is not None and "tokenizer_config.json" in files else "",
        **_size(saved, adapters=is_adapter),  # type: ignore[arg-type]
    )


def use_of(tag: object, section: str) -> Use | None:
    """What a model is for, by its card: the ``pipeline_tag`` and our section, which names the class that loads it."""
    if "PeftModel" in section:
        return None
    return next((use for use in USES.values() if use.tag == tag and f"{use.auto}.from_pretrained" in section), None)


def _size(model: Model, *, adapters: bool) -> dict[str, object]:
    layers = tuple(f"{path}." for path in adapted(model))
    counted = Counter[str]()
    parameters = nbytes = 0
    for name, tensor in model.named_parameters():
        if adapters and not (name.startswith(layers) and ".base_layer." not in name):
            continue
        counted[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
        parameters += tensor.numel()
        nbytes += tensor.numel() * tensor.element_size()
    return {"parameters": parameters, "nbytes": nbytes, "dtypes": tuple(name for name, _ in counted.most_common())}


def _use(model: Model) -> Use | None:
    tasks = model.origin.architecture.tasks
    found = next((USES[task] for task in USES if task in tasks), None)
    if found is None and "base" in tasks:
        found = _BASES.get(model.main_input)
    return found


def _loader(saved: object) -> str:
    """The class that loads it: the Auto class of its kind, which the base classes' names tell."""
    if isinstance(saved, GenerationConfig):
        return "GenerationConfig"
    for kind, auto in LOADERS:
        if any(base.__name__ == kind for base in type(saved).__mro__):
            return auto
    return type(saved).__name__


LOADERS: Final = (
    ("ModelConfig", "AutoConfig"),
    ("Tokenizer", "AutoTokenizer"),
    ("Processor", "AutoProcessor"),
    ("ImageProcessor", "AutoImageProcessor"),
    ("FeatureExtractor", "AutoFeatureExtractor"),
)


NAMES: Final[Mapping[str, str]] = {
    "AutoConfig": "config",
    "AutoTokenizer": "tokenizer",
    "AutoProcessor": "processor",
    "AutoImageProcessor": "image_processor",
    "AutoFeatureExtractor": "feature_extractor",
    "GenerationConfig": "generation_config",
}
"""What its lines of code call what was loaded."""


def _hub_id(name: str, repo_id: str) -> str:
    """A model's name if it is another repository's."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return ""
    return "" if name == repo_id or Path(name).exists() or not name else name


def in_units(nbytes: int) -> str:
    """A number of bytes for people: ``"1.6 GB"``."""
    size = float(nbytes)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{nbytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
