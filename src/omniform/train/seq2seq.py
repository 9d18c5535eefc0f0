"""A Trainer whose evaluations may write: summaries, translations, transcripts, compared as texts."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.core.errors import InputError
from omniform.core.generation import GenerationConfig
from omniform.core.outputs import ModelOutput
from omniform.train.arguments import Seq2SeqTrainingArguments
from omniform.train.evaluating import Step, mean_of_all, prepared
from omniform.train.processes import whole_parameters
from omniform.train.trainer import Trainer

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from omniform.train.metrics import Metrics, PredictionOutput


class Seq2SeqTrainer(Trainer):
    """A :class:`~omniform.Trainer` that, with ``predict_with_generate``, gives what the model writes as predictions.

    Its arguments are the Trainer's; ``args`` is a :class:`~omniform.Seq2SeqTrainingArguments`, whose
    ``generation_config`` (an object, a file, a folder or the name of a checkpoint) takes the place of the model's.
    """

    args: Seq2SeqTrainingArguments
    _gen_kwargs: dict[str, object]

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type] # the Trainer's own, all of them
        if not isinstance(self.args, Seq2SeqTrainingArguments):
            raise InputError(
                "the arguments do not say how to write",
                where="args",
                expected="Seq2SeqTrainingArguments",
                found=type(self.args).__name__,
            )
        self._gen_kwargs = {}
        if self.args.generation_config is not None:
            settings = self.load_generation_config(self.args.generation_config)
            self.model.generation_config = settings  # type: ignore[assignment]

    @staticmethod
    def load_generation_config(gen_config_arg: str | os.PathLike[str] | GenerationConfig) -> GenerationConfig:
        """Settings of writing, from an object, a file, a folder, or a checkpoint's name.

        Raises:
            RepoError: there is no such file.
            ConfigError: the settings contradict one another, which saving would refuse after the training.
        """
        if isinstance(gen_config_arg, GenerationConfig):
            settings = copy.deepcopy(gen_config_arg)
        elif (path := Path(gen_config_arg)).is_file():
            settings = GenerationConfig.from_pretrained(path.parent, path.name)
        else:
            settings = GenerationConfig.from_pretrained(gen_config_arg)
        settings.validate(strict=True)
        return settings

    def evaluate(  # type: ignore[override] # it takes what the Trainer's takes, and more
        self,
        eval_dataset: Dataset[object] | Mapping[str, Dataset[object]] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: object,
    ) -> Metrics:
        """As :meth:`Trainer.evaluate`; further keywords (``max_length``, ``num_beams``, ...) go to ``generate``."""
        self._writes(gen_kwargs)
        return super().evaluate(eval_dataset, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)

    def predict(  # type: ignore[override]
        self,
        test_dataset: Dataset[object],
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: object,
    ) -> PredictionOutput:
        """As :meth:`Trainer.predict`; further keywords (``max_length``, ``num_beams``, ...) go to ``generate``."""
        self._writes(gen_kwargs)
        return super().predict(test_dataset, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)

    def _writes(self, gen_kwargs: dict[str, object]) -> None:
        """Take note of a call's own settings, over those of the arguments."""
        own = {name: value for name, value in gen_kwargs.items() if value is not None}
        if "max_length" not in own and "max_new_tokens" not in own and self.args.generation_max_length is not None:
            own["max_length"] = self.args.generation_max_length
        if "num_beams" not in own and self.args.generation_num_beams is not None:
            own["num_beams"] = self.args.generation_num_beams
        self._gen_kwargs = own

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, object],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: object,
    ) -> Step:
        """Loss, what is written, labels; rows are filled up with padding to the greatest length that may be written."""
        if not self.args.predict_with_generate or prediction_loss_only:
            return super().prediction_step(
                model, inputs, prediction_loss_only=prediction_loss_only, ignore_keys=ignore_keys
            )
        given = prepared(self, inputs)
        asked = {name: value for name, value in (gen_kwargs or self._gen_kwargs).items() if value is not None}
        with whole_parameters(self):
            written = cast(Tensor, self.model.generate(**_to_write_from(given), **asked))  # type: ignore[operator]
        loss = self._loss_of(model, given) if "labels" in given else None
        if self.args.prediction_loss_only:
            return loss, None, None
        length = self._greatest_length(asked)
        labels = given.get("labels")
        filled = self._pad_tensors_to_max_len(labels, length) if isinstance(labels, Tensor) else None
        return loss, self._pad_tensors_to_max_len(written, length), filled

    @torch.no_grad()
    def _loss_of(self, model: nn.Module, inputs: dict[str, object]) -> Tensor:
        items = self._get_num_items_in_batch([inputs], self.args.device)
        self._divided = items is not None and self.model_accepts_loss_kwargs
        counted = {"num_items_in_batch": items} if self._divided else {}
        with self.compute_loss_context_manager():
            outputs = model(**inputs, **counted)
        if self.label_smoother is not None:
            loss = self.label_smoother(
                outputs, cast(Tensor, inputs["labels"]), num_items_in_batch=items if self._divided else None
            )
        else:
            loss = cast(Tensor, outputs["loss"] if isinstance(outputs, Mapping | ModelOutput) else outputs[0])
        if self._divided and self.args.average_tokens_across_devices:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())  # each has a part of the sum
        return mean_of_all(self, loss.detach().mean(), inputs)

    def _greatest_length(self, asked: Mapping[str, object]) -> int:
        """How long rows may become, the decoder's first token counted: of this call, or of the model's settings."""
        settings = cast(GenerationConfig, self.model.generation_config)
        for source in (asked.get, lambda name: getattr(settings, name)):
            if isinstance(new := source("max_new_tokens"), int):
                return new + 1
            if isinstance(whole := source("max_length"), int):
                return whole
        return DEFAULT_LENGTH

    def _pad_tensors_to_max_len(self, tensor: Tensor, max_length: int) -> Tensor:
        """Rows filled up behind with the padding token.

        Args:
            tensor: Shape: [B, T]; as it is if it is long enough.

        Raises:
            InputError: neither the tokenizer nor the model's config names a token for it.
        """
        missing = max_length - tensor.shape[-1]
        if missing <= 0:
            return tensor
        token = self.padding_token()
        if token is None:
            raise InputError(
                "there is no token to fill rows with",
                where="pad_token_id",
                expected="one of the processing_class or of the model's config",
                remedy="Set model.config.pad_token_id.",
            )
        return F.pad(tensor, (0, missing), value=token)

    def padding_token(self) -> int | None:
        """The padding token, or else the end token, of the tokenizer; without one the padding token of the config."""
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        for name in ("pad_token_id", "eos_token_id"):
            if isinstance(token := getattr(tokenizer, name, None), int):
                return token
        token = getattr(self.model.config, "pad_token_id", None)
        return token if isinstance(token, int) else None


DEFAULT_LENGTH = 20
"""How long rows may become where nobody says, as in the ecosystem."""


def _to_write_from(inputs: dict[str, object]) -> dict[str, object]:
    """What ``generate`` gets: not the decoder's inputs if they were made of the labels, which would be read on."""
    labels, begun = inputs.get("labels"), inputs.get("decoder_input_ids")
    if isinstance(labels, Tensor) and isinstance(begun, Tensor) and labels.shape == begun.shape:
        return {k: v for k, v in inputs.items() if k not in ("decoder_input_ids", "decoder_attention_mask")}
    return dict(inputs)


__all__ = ["Seq2SeqTrainer"]
