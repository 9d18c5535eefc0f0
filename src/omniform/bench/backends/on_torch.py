"""What backends on torch share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from ..job import RefusedError
from .base import Backend, Told, unheard
from .costs import Cost, cost_of

CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "image-text-to-text": "AutoModelForImageTextToText",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "object-detection": "AutoModelForObjectDetection",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "automatic-speech-recognition": "AutoModelForSpeechSeq2Seq",
    "audio-classification": "AutoModelForAudioClassification",
}
"""The class that a task's model is loaded with, by the ecosystem's names."""

WRITING = frozenset({"text-generation", "image-text-to-text"})
"""Tasks of models whose tokens see none that come later."""

READERS = {
    "text": "AutoTokenizer",
    "image": "AutoImageProcessor",
    "audio": "AutoFeatureExtractor",
    "video": "AutoVideoProcessor",
}
"""What reads inputs of a modality, by the ecosystem's names."""


ANSWER = 512
"""About how many numbers of an output are told."""


class Steps:
    """A streamer: hears of every step of a call of ``generate``, of any number of rows."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.prompted = False

    def put(self, value: object) -> None:
        """The prompt comes first, then a step's tokens each time."""
        if self.prompted:
            self.told()
        self.prompted = True

    def end(self) -> None:
        """All is said."""


class OnTorch(Backend):
    """A library with the ecosystem's Auto classes and ``generate``."""

    LIBRARY = ""

    def __init__(self, job: Any) -> None:
        super().__init__(job)
        self.model: Any = None
        self.torch: Any = None
        self.library: Any = None
        self.task = ""

    def prepare(self) -> None:
        """Import torch and the library."""
        self.torch = import_module("torch")
        self.torch.set_num_threads(self.job.threads)
        self.library = self.imported()

    def imported(self) -> Any:
        """The library."""
        return import_module(self.LIBRARY)

    def loading(self) -> dict[str, Any]:
        """Keywords of ``from_pretrained``."""
        return {"dtype": str(self.options.get("dtype") or "auto"), **dict(self.options.get("options") or {})}

    def load(self, task: str = "text-generation") -> None:
        """Load the model as the class that the task asks for."""
        self.task = task
        name = self.options.get("load_class") or CLASSES.get(task)
        if name is None:
            raise RefusedError(f"no class is known for the task {task!r}; name one as backend.load_class")
        auto = getattr(self.library, str(name))
        self.model = self.placed(auto.from_pretrained(self.job.model, **self.loading())).eval()
        settings = getattr(self.model, "generation_config", None)
        if settings is not None:
            settings.eos_token_id = None  # an answer has the length that was asked for
        if self.options.get("compile"):
            self.model.forward = self.torch.compile(self.model.forward)

    def placed(self, model: Any) -> Any:
        """The model on its device."""
        return model.to(self.device)

    def cost(self) -> Cost | None:
        """By the weights, and by what is attended to."""
        return None if self.model is None else cost_of(self.model, self.torch, causal=self.task in WRITING)

    def computes(self) -> str:
        """That of the first floating parameter."""
        kinds = (parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point())
        return str(next(kinds, "float32")).removeprefix("torch.")

    def tensors(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Lists become tensors on the device."""
        torch = self.torch
        made = {name: torch.as_tensor(value) for name, value in inputs.items()}
        dtype = next(self.model.parameters()).dtype
        return {
            name: (x.to(dtype) if x.is_floating_point() and dtype.is_floating_point else x).to(self.device)
            for name, x in made.items()
        }

    def rows(self, modality: str, batch: int, length: int, picture: int) -> dict[str, Any]:
        """Random rows, always the same."""
        from ..scenarios.forward import text_rows

        if modality == "text":
            return self.tensors(text_rows(batch, length, self.vocabulary()))
        config = self.model.config
        vision = getattr(config, "vision_config", config)
        size = picture or getattr(vision, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        made = self.torch.Generator().manual_seed(0)
        channels = int(getattr(vision, "num_channels", 3))
        return self.tensors({"pixel_values": self.torch.rand(batch, channels, height, width, generator=made)})

    def shaped(self, shapes: Mapping[str, Sequence[int]], batch: int) -> dict[str, Any]:
        """Always the same."""
        from ..scenarios.base import tokens

        made: dict[str, Any] = {}
        for name, shape in shapes.items():
            size = batch, *shape
            if name.endswith("ids"):
                count = batch * self.torch.Size(shape).numel()
                made[name] = self.torch.tensor(tokens(name, count, self.vocabulary())).reshape(size)
            elif name.endswith("mask"):
                made[name] = self.torch.ones(size, dtype=self.torch.long)
            else:
                made[name] = self.torch.randn(size, generator=self.torch.Generator().manual_seed(batch))
        return self.tensors(made)

    def told(self, output: object) -> list[float]:
        """Numbers of the first tensor of real ones, evenly over it."""
        kept = output if isinstance(output, (tuple, list)) else output.to_tuple()  # type: ignore[attr-defined]
        found = next((x for x in kept if isinstance(x, self.torch.Tensor) and x.is_floating_point() and x.dim()), None)
        if found is None:
            return []
        flat = found.detach().flatten()
        told: list[float] = flat[:: max(len(flat) // ANSWER, 1)].float().tolist()
        return told

    def forward(self, inputs: Mapping[str, Any]) -> object:
        """One pass, without a gradient."""
        with self.torch.inference_mode():
            return self.model(**inputs)

    def padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Prompts padded on the left, and their mask."""
        width = max(map(len, prompts))
        ids = [[0] * (width - len(row)) + list(row) for row in prompts]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in prompts]
        torch = self.torch
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def write(
        self, prompts: Sequence[Sequence[int]], new: int, told: Told = unheard, beams: int = 1
    ) -> list[list[int]]:
        """By ``generate``."""
        if self.options.get("continuous") and len(prompts) > 1 and beams == 1:
            return self.batched([list(row) for row in prompts], new)
        ids, mask = self.padded(prompts)
        how: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "num_beams": beams}
        how |= dict(self.options.get("generate") or {})
        if told is not unheard and beams == 1:
            how["streamer"] = Steps(told)
        if len({len(row) for row in prompts}) > 1:
            how["attention_mask"] = mask
        else:
            how["attention_mask"] = self.torch.ones_like(ids)
        written: list[list[int]] = self.model.generate(ids, **how)[:, ids.shape[1] :].tolist()
        return written

    def batched(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """By the library's continuous batching."""
        raise NotImplementedError

    def pipeline(self, task: str) -> Callable[..., Any]:
        """The library's; ``options`` are its own, ``batch_size`` among them."""
        how = {name: value for name, value in self.loading().items() if name != "dtype" or value != "auto"}
        made: Callable[..., Any] = self.library.pipeline(task, model=self.job.model, device=self.device, **how)
        return made

    def reader(self, modality: str) -> Callable[[Sequence[Any]], object]:
        """The checkpoint's tokenizer, image processor, feature extractor or video processor."""
        name = READERS[modality]
        made = getattr(self.library, name).from_pretrained(self.job.model)
        how: dict[str, Any] = {"return_tensors": "pt"}
        if modality == "text":
            return lambda inputs: made(list(inputs))
        if modality == "audio":
            how["sampling_rate"] = int(made.sampling_rate)
        return lambda inputs: made(list(inputs), **how)

    def train(self) -> Any:
        """The model, ready to be trained."""
        self.model.requires_grad_(True)
        return self.model.train()

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.startswith("cuda"):
            self.torch.cuda.synchronize()
