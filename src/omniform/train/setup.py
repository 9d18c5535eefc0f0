"""What a Trainer settles when it is made: its model, its labels, its place, and that its arguments fit one another."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from omniform.architectures.model import Model
from omniform.core.errors import InputError, brief
from omniform.core.logs import get_logger, set_verbosity
from omniform.inputs.audio import SequenceFeatureExtractor
from omniform.inputs.text.classes import PreTrainedTokenizerBase
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.train.collators import DataCollatorWithPadding, default_data_collator
from omniform.train.data import has_length
from omniform.train.helpers import validate_quantization_for_training
from omniform.train.smoothing import LabelSmoother
from omniform.train.values import Collator, Trial
from omniform.train.wrapped import is_placed, without_adapters

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)


def set_log_level(args: TrainingArguments) -> None:
    """Say as much as the arguments want of this process."""
    set_verbosity(args.get_process_log_level())


def given_model(trainer: Trainer, model: nn.Module | None) -> nn.Module:
    """The model, or one that ``model_init`` makes.

    Raises:
        InputError: neither is given, or both; it is no module.
    """
    if (model is None) == (trainer.model_init is None):
        raise InputError(
            "a Trainer needs a model or a function that makes one",
            where="model and model_init",
            expected="one of them",
            found="neither" if model is None else "both",
        )
    model = trainer.call_model_init() if model is None else model
    if not isinstance(model, nn.Module):
        raise InputError("this cannot be trained", where="model", expected="a torch.nn.Module", found=brief(model))
    return model


def call_model_init(trainer: Trainer, trial: Trial = None) -> nn.Module:
    """``Trainer.call_model_init``: a fresh model; the function may take the trial.

    Raises:
        InputError: it takes more than that, or gives no model.
    """
    make = trainer.model_init
    assert make is not None
    takes = len(inspect.signature(make).parameters)
    if takes > 1:
        raise InputError("what makes the model takes too much", where="model_init", expected="0 or 1", found=takes)
    model: object = make(trial) if takes else make()
    if not isinstance(model, nn.Module):
        raise InputError("no model was made", where="model_init", expected="a torch.nn.Module", found=brief(model))
    return model


def place(trainer: Trainer) -> None:
    """Move the model to the device, unless something else is to do that; see ``args.place_model_on_device``."""
    args, model = trainer.args, trainer.model
    trainer.is_model_parallel = is_placed(model, args.device)
    if args.n_gpu > 1:
        args._n_gpu = 1
        if not trainer.is_model_parallel:
            logger.warning("One process trains on one GPU: start one for each (torchrun, accelerate launch) to use all")
    elsewhere = trainer.is_model_parallel or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    later = args.fp16_full_eval or args.bf16_full_eval  # moved and made smaller in one go
    asked = args.place_model_on_device
    trainer.place_model_on_device = not (elsewhere or later) if asked is None else asked
    if trainer.place_model_on_device:
        trainer._move_model_to_device(model, args.device)
    inner = without_adapters(model)
    if isinstance(inner, Model):
        inner.config.update({"use_cache": args.use_cache})


def move(trainer: Trainer, model: nn.Module, device: torch.device) -> None:
    """``Trainer._move_model_to_device``: all of a model, unless its parts were placed when it was loaded."""
    if is_placed(model, device):
        logger.warning("The model's parts were placed when it was loaded; they stay there")
    else:
        model.to(device)


def default_collator(processing_class: object) -> Collator:
    """Pads, where there is something that knows how; else rows must be of one length already."""
    if isinstance(processing_class, PreTrainedTokenizerBase | SequenceFeatureExtractor):
        return cast(Collator, DataCollatorWithPadding(cast(Tokenizer, processing_class)))
    return cast(Collator, default_data_collator)


def smoother(trainer: Trainer) -> LabelSmoother | None:
    """What smooths labels, if they are to be smoothed and are classes."""
    epsilon = trainer.args.label_smoothing_factor
    if not epsilon:
        return None
    inner = without_adapters(trainer.model)
    if isinstance(inner, Model) and inner.config.common.problem_type == "multi_label_classification":
        logger.warning("label_smoothing_factor is left out: a row has several labels, each of them a chance")
        return None
    return LabelSmoother(epsilon=epsilon)


# -- what does not fit together ----------------------------------------------------------------------------------------


def validate(trainer: Trainer) -> None:
    """``Trainer._validate_args``: refuse arguments that contradict one another or the data.

    Raises:
        InputError: naming both sides.
    """
    _check_metrics(trainer)
    _check_optimizers(trainer)
    _check_data(trainer)
    if trainer.train_dataset is not None:  # without one, it may be there to predict with
        check_loss(trainer)
    validate_quantization_for_training(trainer.model)


def _check_metrics(trainer: Trainer) -> None:
    args, measure = trainer.args, trainer.compute_metrics
    takes = () if measure is None else inspect.signature(measure).parameters
    if args.batch_eval_metrics and measure is not None and "compute_result" not in takes:
        raise InputError(
            "metrics are computed batch by batch, and nothing tells the function which is the last",
            where="batch_eval_metrics and compute_metrics",
            expected="a function with an argument compute_result",
        )
    if args.eval_strategy != "no" and trainer.eval_dataset is None:
        raise InputError(
            "evaluations are asked for, and there is nothing to evaluate on",
            where="eval_strategy and eval_dataset",
            found=f"{args.eval_strategy} and None",
        )
    if (args.save_strategy == "best" or args.load_best_model_at_end) and args.metric_for_best_model is None:
        raise InputError(
            "the best model is asked for, and no metric says which that is",
            where="save_strategy='best' or load_best_model_at_end, and metric_for_best_model",
            found=f"{args.save_strategy}, {args.load_best_model_at_end} and None",
        )


def _check_optimizers(trainer: Trainer) -> None:
    given = trainer.optimizer is not None or trainer.lr_scheduler is not None
    if trainer.optimizer_cls_and_kwargs is not None and trainer.optimizer is not None:
        raise InputError("two optimizers are given", where="optimizers and optimizer_cls_and_kwargs", expected="one")
    if given and trainer.model_init is not None:
        raise InputError(
            "the model is made anew, and the optimizer holds the old one's weights",
            where="optimizers and model_init",
            expected="one of them",
            remedy="Override create_optimizer, or give optimizer_cls_and_kwargs.",
        )
    if given and trainer.is_fsdp_enabled:
        raise InputError(
            "FSDP cuts the weights up, and the optimizer holds them whole",
            where="optimizers and fsdp",
            remedy="Override create_optimizer, or give optimizer_cls_and_kwargs.",
        )


def _check_data(trainer: Trainer) -> None:
    collator: object = trainer.data_collator
    if not callable(collator):
        raise InputError("the collator cannot be called", where="data_collator", found=brief(collator))
    if trainer.train_dataset is not None and not has_length(trainer.train_dataset) and trainer.args.max_steps <= 0:
        raise InputError(
            "the dataset has no length, so the number of steps is unknown",
            where="train_dataset and max_steps",
            expected="max_steps above 0",
            found=f"{type(trainer.train_dataset).__name__} and {trainer.args.max_steps}",
        )


def check_loss(trainer: Trainer) -> None:
    """Refuse to train a model of ours that has no loss.

    Raises:
        InputError: naming its class.
    """
    inner = without_adapters(trainer.model)
    own = trainer.compute_loss_func is not None or _overrides_loss(trainer)
    if not isinstance(inner, Model) or own or trainer.label_names or "return_loss" in inner.accepts():
        return
    raise InputError(
        "this model has no loss: it takes no labels",
        where="model",
        found=type(inner).__name__,
        remedy="Load it with a head (AutoModelFor...), or give a compute_loss_func.",
    )


def _overrides_loss(trainer: Trainer) -> bool:
    from omniform.train.trainer import Trainer as Base

    return type(trainer).compute_loss is not Base.compute_loss
