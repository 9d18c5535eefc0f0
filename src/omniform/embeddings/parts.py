"""The steps of an embedding model other than reading and pooling, and what all steps have in common."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.core.errors import ConfigError, WeightsError, listed
from omniform.core.reader import ConfigReader
from omniform.embeddings.activations import Function, activation_named, name_of
from omniform.embeddings.features import LOGITS, SCORES, SENTENCE, TOKENS, Features, tensor_of
from omniform.hub.files import Source, read_json
from omniform.hub.weights import find_weights

log = logging.getLogger("omniform")

P = TypeVar("P", bound="Part")


@dataclass(frozen=True, slots=True)
class PartFiles:
    """Where the files of one step lie.

    Attributes:
        source: the whole checkpoint.
        folder: the step's own folder in it (``"1_Pooling"``), or nothing.
        changes: what the user wants read otherwise; the step that reads texts looks at it.
    """

    source: Source
    folder: str
    changes: Mapping[str, object]

    @property
    def own(self) -> Source:
        """The step's own folder."""
        return replace(self.source, subfolder=self.folder)

    def config(self, filename: str = "config.json") -> ConfigReader:
        """A reader of the step's settings; of nothing, where there is no such file."""
        path = self.own.find(filename)
        return ConfigReader({} if path is None else read_json(path), where=str(path or f"{self.folder}/{filename}"))

    def told(self, r: ConfigReader, part: P) -> P:
        """The step, which remembers its settings as the file spells them; what nobody knows in it is said once."""
        if unknown := r.unknown():
            log.warning("%s: kept, but not known to omniform: %s", r.where, listed(unknown))
        part.written = dict(r.raw)
        return part

    def weights_into(self, part: nn.Module) -> None:
        """Fill a step's parameters.

        Raises:
            RepoError: there are no weights.
            WeightsError: they are others than the step's.
        """
        found, wanted = find_weights(self.own).tensors(), part.state_dict()
        faults = [f"{key} is missing" for key in wanted.keys() - found.keys()]
        faults += [f"{key} is not known" for key in found.keys() - wanted.keys()]
        faults += [
            f"{key} is {list(found[key].shape)}, not {list(tensor.shape)}"
            for key, tensor in wanted.items()
            if key in found and found[key].shape != tensor.shape
        ]
        if faults:
            raise WeightsError(
                "the weights do not fit", where=f"{self.source.name}/{self.folder}", found=listed(sorted(faults))
            )
        part.load_state_dict({key: tensor.clone() for key, tensor in found.items()}, assign=True)


class Part(nn.Module):
    """One step from texts to vectors or scores.

    Attributes:
        name: what the layout calls it: the end of its ``type``, and of its folder.
        written: its settings as the file spells them; empty for one made by hand.
    """

    name: ClassVar[str] = ""
    root: ClassVar[bool] = False
    written: Mapping[str, object] = {}

    @classmethod
    def load(cls, files: PartFiles) -> Self:
        """The step as its folder has it."""
        raise NotImplementedError

    def settings(self) -> dict[str, object]:
        """What ``config.json`` has to say of a step that was made by hand."""
        return {}

    def changed(self) -> dict[str, object]:
        """Those settings that are other than the file says."""
        return {}

    def dimension(self, incoming: int | None) -> int | None:
        """The width of the vectors that leave, given that of those that come; None where it is not known."""
        return incoming

    def forward(self, features: Features) -> Features:
        """What comes in, and beside it what this step makes of it."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write settings and weights into a folder of its own."""
        from safetensors.torch import save_file

        settings = {**self.written, **self.changed()} if self.written else self.settings()
        (folder / "config.json").write_text(json.dumps(settings, indent=4), encoding="utf-8")
        if weights := self.state_dict():
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class Dense(Part):
    """A linear layer with an activation.

    Args:
        in_features: width of what comes in.
        out_features: width of what goes out.
        bias: whether the layer has one.
        activation_function: after the layer; ``nn.Tanh()`` by default, None for nothing.
        module_input_name: which feature it reads.
        module_output_name: which it makes; the same by default.
        use_residual: whether what came in is added, through a matrix where the widths differ.
    """

    name = "Dense"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation_function: Function | None = nn.Tanh(),  # noqa: B008  # it holds nothing
        module_input_name: str = SENTENCE,
        module_output_name: str | None = None,
        use_residual: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation_function: Function = nn.Identity() if activation_function is None else activation_function
        self.reads, self.makes = module_input_name, module_output_name or module_input_name
        self.residual: nn.Module | None = None
        if use_residual:
            same = in_features == out_features
            self.residual = nn.Identity() if same else nn.Linear(in_features, out_features, bias=False)

    @property
    def out_features(self) -> int:
        """Width of what goes out."""
        return self.linear.out_features

    @classmethod
    def load(cls, files: PartFiles) -> Self:
        r = files.config()
        act = r.text("activation_function", "torch.nn.modules.activation.Tanh")
        with torch.device("meta"):
            part = cls(
                r.integer("in_features"),
                r.integer("out_features"),
                r.flag("bias", True),
                activation_named(act, f"{r.where}: activation_function"),
                r.text("module_input_name", SENTENCE),
                r.maybe_text("module_output_name"),
                r.flag("use_residual", False),
            )
        files.weights_into(part)
        return files.told(r, part)

    def settings(self) -> dict[str, object]:
        named = {} if (self.reads, self.makes) == (SENTENCE, SENTENCE) else {
            "module_input_name": self.reads, "module_output_name": self.makes,
        }  # fmt: skip
        return {
            "in_features": self.linear.in_features,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": name_of(self.activation_function),
            **named,
            **({} if self.residual is None else {"use_residual": True}),
        }

    def dimension(self, incoming: int | None) -> int | None:
        return self.out_features if self.makes in (SENTENCE, TOKENS) else incoming

    def forward(self, features: Features) -> Features:
        x = tensor_of(features, self.reads, "Dense")
        made = self.activation_function(self.linear(x))
        return {**features, self.makes: made if self.residual is None else made + self.residual(x)}


class Normalize(Part):
    """Vectors of length one.

    Args:
        module_input_name: which feature it reads.
        module_output_name: which it makes; the same by default.
    """

    name = "Normalize"

    def __init__(self, module_input_name: str = SENTENCE, module_output_name: str | None = None) -> None:
        super().__init__()
        self.reads, self.makes = module_input_name, module_output_name or module_input_name

    @classmethod
    def load(cls, files: PartFiles) -> Self:
        r = files.config()
        return files.told(r, cls(r.text("module_input_name", SENTENCE), r.maybe_text("module_output_name")))

    def settings(self) -> dict[str, object]:
        return {"module_input_name": self.reads, "module_output_name": self.makes}

    def forward(self, features: Features) -> Features:
        return {**features, self.makes: F.normalize(tensor_of(features, self.reads, "Normalize"), dim=-1)}


class LayerNorm(Part):
    """A layer norm over the vectors."""

    name = "LayerNorm"

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    @classmethod
    def load(cls, files: PartFiles) -> Self:
        r = files.config()
        part = cls(r.integer("dimension"))
        files.weights_into(part)
        return files.told(r, part)

    def settings(self) -> dict[str, object]:
        return {"dimension": self.norm.normalized_shape[0]}

    def dimension(self, incoming: int | None) -> int | None:
        return self.norm.normalized_shape[0]

    def forward(self, features: Features) -> Features:
        return {**features, SENTENCE: cast(Tensor, self.norm(tensor_of(features, SENTENCE, "LayerNorm")))}


class Dropout(Part):
    """Dropout, in training; otherwise nothing."""

    name = "Dropout"

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout_layer = nn.Dropout(dropout)

    @classmethod
    def load(cls, files: PartFiles) -> Self:
        r = files.config()
        return files.told(r, cls(r.probability("dropout", 0.2)))

    def settings(self) -> dict[str, object]:
        return {"dropout": self.dropout_layer.p}

    def forward(self, features: Features) -> Features:
        return {**features, SENTENCE: cast(Tensor, self.dropout_layer(tensor_of(features, SENTENCE, "Dropout")))}


class LogitScore(Part):
    """How much likelier one token ("yes") is than another ("no") as the next one: a score of relevance.

    Args:
        true_token_id: the token that speaks for it.
        false_token_id: the one that speaks against it; None to take the first one's logit alone.
    """

    name = "LogitScore"

    def __init__(self, true_token_id: int, false_token_id: int | None = None, module_input_name: str = LOGITS) -> None:
        super().__init__()
        self.true_token_id, self.false_token_id, self.reads = true_token_id, false_token_id, module_input_name

    @classmethod
    def load(cls, files: PartFiles) -> Self:
        r = files.config()
        yes, no = r.integer("true_token_id", least=0), r.maybe_integer("false_token_id", least=0)
        return files.told(r, cls(yes, no, r.text("module_input_name", LOGITS)))

    def settings(self) -> dict[str, object]:
        return {
            "true_token_id": self.true_token_id,
            "false_token_id": self.false_token_id,
            "module_input_name": self.reads,
        }

    def forward(self, features: Features) -> Features:
        logits_BV = tensor_of(features, self.reads, "LogitScore")[:, -1]
        largest = max(self.true_token_id, self.false_token_id or 0)
        if largest >= logits_BV.shape[-1]:
            raise ConfigError(
                "no such token", where="LogitScore", expected=f"an id below {logits_BV.shape[-1]}", found=largest
            )
        scores = logits_BV[:, self.true_token_id]
        if self.false_token_id is not None:
            scores = scores - logits_BV[:, self.false_token_id]
        return {**features, SCORES: scores[:, None]}
