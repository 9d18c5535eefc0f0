"""Evaluation and prediction: a model over a dataset without gradients, its outputs gathered in the dataset's order.

Every function takes the Trainer whose methods it stands behind, and calls what a subclass may override through it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from omniform.core.errors import InputError, brief
from omniform.core.logs import get_logger
from omniform.core.outputs import ModelOutput
from omniform.train.batch_size import is_out_of_memory
from omniform.train.data import has_length
from omniform.train.metrics import (
    Arrays,
    EvalLoopOutput,
    EvalPrediction,
    Metrics,
    PredictionOutput,
    denumpify_detensorize,
    prefixed,
    speed_metrics,
)
from omniform.train.nested import EvalLoopContainer, find_batch_size, nested_detach
from omniform.train.optimizing import waits_for_metrics
from omniform.train.parallel.rest import filled, own_part
from omniform.train.reports import watched
from omniform.train.values import Examples, Inputs, Trial
from omniform.train.workers import plainly
from omniform.train.wrapped import main_input

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    from omniform.train.data import Loader
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

IGNORED: Final = -100
"""What fills rows up to one length."""
Step = tuple[Tensor | None, object, object]
"""Of one batch: the loss, the outputs besides, the labels."""


def evaluate(
    trainer: Trainer,
    datasets: str | Examples | Mapping[str, Examples] | None,
    ignore_keys: list[str] | None,
    prefix: str,
) -> Metrics:
    """``Trainer.evaluate``: metrics of a dataset, or of several under their names."""
    given = datasets if datasets is not None else trainer.eval_dataset
    if isinstance(given, Mapping):
        found: Metrics = {}
        for name, dataset in given.items():
            one = dataset if datasets is not None else name
            found |= trainer.evaluate(one, ignore_keys=ignore_keys, metric_key_prefix=f"{prefix}_{name}")
        return found
    trainer.memory_tracker.start()
    loader = trainer.get_eval_dataloader(given if datasets is not None and not isinstance(datasets, str) else datasets)
    begun = time.time()
    # Without somebody to look at them, outputs need not be kept.
    loss_only = True if trainer.compute_metrics is None else None
    output = trainer.evaluation_loop(
        loader,
        description="Evaluation",
        prediction_loss_only=loss_only,
        ignore_keys=ignore_keys,
        metric_key_prefix=prefix,
    )
    metrics = _timed(trainer, output, prefix, begun)
    trainer.log(metrics)
    trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    trainer.memory_tracker.stop_and_update_metrics(metrics)
    return metrics


def on_the_way(
    trainer: Trainer, trial: Trial, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False
) -> Metrics:
    """``Trainer._evaluate``: an evaluation during the training; a search is told, schedules that wait for it go on.

    Raises:
        InputError: memory ran out, where only the training's batches can be made smaller.
    """
    try:
        metrics = trainer.evaluate(ignore_keys=ignore_keys_for_eval)
    except (RuntimeError, MemoryError) as error:
        if trainer.args.auto_find_batch_size and is_out_of_memory(error):
            raise InputError(
                "memory ran out in an evaluation",
                where="per_device_eval_batch_size",
                found=trainer.args.per_device_eval_batch_size,
                remedy="Make it smaller: auto_find_batch_size changes the training's batches only.",
            ) from error
        raise
    trainer._report_to_hp_search(trial, trainer.state.global_step, metrics)
    if waits_for_metrics(trainer.lr_scheduler) and not skip_scheduler:
        scheduler = cast("ReduceLROnPlateau", trainer.lr_scheduler)
        scheduler.step(watched(trainer, metrics))
    return metrics


def predict(trainer: Trainer, dataset: Examples, ignore_keys: list[str] | None, prefix: str) -> PredictionOutput:
    """``Trainer.predict``: outputs, labels where there are any, and metrics of them."""
    trainer.memory_tracker.start()
    loader = trainer.get_test_dataloader(dataset)
    begun = time.time()
    output = trainer.evaluation_loop(
        loader, description="Prediction", ignore_keys=ignore_keys, metric_key_prefix=prefix
    )
    metrics = _timed(trainer, output, prefix, begun)
    trainer.control = trainer.callback_handler.on_predict(trainer.args, trainer.state, trainer.control, metrics)
    trainer.memory_tracker.stop_and_update_metrics(metrics)
    return PredictionOutput(output.predictions, output.label_ids, metrics)


def _timed(trainer: Trainer, output: EvalLoopOutput, prefix: str, begun: float) -> Metrics:
    metrics = output.metrics if output.metrics is not None else {}
    begun += metrics.get(f"{prefix}_model_preparation_time", 0.0)
    samples = output.num_samples or 0
    steps = math.ceil(samples / (trainer.args.eval_batch_size * trainer.args.world_size))
    return metrics | speed_metrics(prefix, begun, num_samples=samples, num_steps=steps)


@dataclass(slots=True)
class Gathered:
    """What batches gave, kept on their device until it is moved to the host.

    Attributes:
        joined: whether batches become one array, rows filled up to one length.
    """

    joined: bool
    losses: EvalLoopContainer = field(init=False)
    predictions: EvalLoopContainer = field(init=False)
    labels: EvalLoopContainer = field(init=False)
    inputs: EvalLoopContainer = field(init=False)

    def __post_init__(self) -> None:
        self.losses, self.predictions, self.labels, self.inputs = (
            EvalLoopContainer(self.joined, padding_index=IGNORED) for _ in range(4)
        )

    def to_host(self) -> None:
        """Make room on the device (``eval_accumulation_steps``)."""
        for kept in (self.losses, self.predictions, self.labels, self.inputs):
            kept.to_cpu_and_numpy()


def evaluation_loop(
    trainer: Trainer,
    loader: Loader,
    description: str,
    loss_only: bool | None,
    ignore_keys: list[str] | None,
    prefix: str,
) -> EvalLoopOutput:
    """``Trainer.evaluation_loop``: see there."""
    args = trainer.args
    if has_length(loader) and not len(cast(Sized, loader)):
        check_examples(trainer, getattr(loader, "dataset", None), description)
    loss_only = args.prediction_loss_only if loss_only is None else loss_only
    model = _ready(trainer)
    trainer.callback_handler.eval_dataloader = loader
    kept = Gathered(args.eval_do_concat_batches)
    # Metrics that are computed batch by batch keep nothing, but predict() has to give outputs back.
    keeps = not args.batch_eval_metrics or description == "Prediction"
    seen = most = 0
    metrics: Metrics | None = None
    for step, inputs in enumerate(plainly(cast("Iterable[dict[str, object]]", loader))):
        count = find_batch_size(inputs) or 0
        seen += count
        inputs, own = own_part(trainer.accelerator, inputs, count)
        trainer._idle = None if own or not count else inputs
        out = trainer.prediction_step(model, inputs, loss_only, ignore_keys=ignore_keys)
        trainer._idle = None
        whole = cast("tuple[object, object]", filled(out[1:], own, count))
        weight = _weight(trainer, count, most := max(most, count))
        shown_of = cast("dict[str, object]", filled(inputs, own, count))
        losses, logits, labels, shown = _across(trainer, (out[0], *whole), shown_of, weight, kept, keeps)
        trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
        if args.batch_eval_metrics:
            if trainer.compute_metrics is not None and logits is not None and labels is not None:
                extra = _extra(trainer, losses, shown)
                last = trainer.accelerator.gradient_state.end_of_dataloader
                prediction = EvalPrediction(predictions=logits, label_ids=labels, **extra)  # type: ignore[arg-type]
                metrics = trainer.compute_metrics(prediction, compute_result=last)
        elif args.eval_accumulation_steps is not None and (step + 1) % args.eval_accumulation_steps == 0:
            kept.to_host()
    if step_count_is_zero := seen == 0:
        short = (
            " (or fewer than a batch, and dataloader_drop_last drops short ones)" if args.dataloader_drop_last else ""
        )
        logger.warning("%s: the dataset has no examples%s, so there is nothing to tell.", description, short)
    trainer.gather_function = trainer.accelerator.gather_for_metrics
    losses_, predictions, labels_, inputs_ = (
        held.get_arrays() for held in (kept.losses, kept.predictions, kept.labels, kept.inputs)
    )
    at_once = trainer.compute_metrics is not None and not args.batch_eval_metrics
    if at_once and not step_count_is_zero and predictions is not None and labels_ is not None:
        assert trainer.compute_metrics is not None
        prediction = EvalPrediction(predictions, labels_, **_extra(trainer, losses_, inputs_))  # type: ignore[arg-type]
        metrics = trainer.compute_metrics(prediction)
    named = _named(trainer, metrics, losses_, prefix)
    found = cast("tuple[Arrays | None, Arrays | None]", (predictions, labels_))
    return EvalLoopOutput(*found, named, _samples(trainer, loader, seen))


def check_evaluations(trainer: Trainer) -> None:
    """Refuse a training whose evaluations would fail, before its first step rather than after hours.

    Raises:
        InputError: see :func:`check_examples`.
    """
    args, given = trainer.args, trainer.eval_dataset
    if (args.eval_strategy == "no" and not args.eval_on_start) or not args.dataloader_drop_last or given is None:
        return
    if not isinstance(given, Mapping):
        check_examples(trainer, given, "Evaluation")
        return
    for name, dataset in given.items():
        check_examples(trainer, dataset, f"Evaluation on {name!r}")


def check_examples(trainer: Trainer, dataset: object, description: str) -> None:
    """Refuse examples that all fall away because they are fewer than a batch, and short batches are dropped.

    Raises:
        InputError: naming the argument that drops them.
    """
    args = trainer.args
    if not args.dataloader_drop_last or not has_length(dataset):
        return
    examples, batch = len(cast(Sized, dataset)), args.eval_batch_size * args.world_size
    if 0 < examples < batch:
        raise InputError(
            f"{description}: the dataset has fewer examples than one batch, and short batches are dropped",
            where="dataloader_drop_last and per_device_eval_batch_size",
            expected=f"at least {batch} examples",
            found=examples,
            remedy="Set dataloader_drop_last=False, or make per_device_eval_batch_size smaller.",
        )


def _ready(trainer: Trainer) -> nn.Module:
    """The model, wrapped and placed for a forward without gradients."""
    model = trainer.prepared_for_evaluation()
    if not trainer.is_in_train:
        half = torch.float16 if trainer.args.fp16_full_eval else torch.bfloat16 if trainer.args.bf16_full_eval else None
        if half is not None:
            model = model.to(dtype=half, device=trainer.args.device)
    model.eval()
    trainer.optimizer_mode(train=False)
    return model


def _across(
    trainer: Trainer, out: Step, inputs: Mapping[str, object], batch: int, kept: Gathered, keeps: bool
) -> tuple[object, object, object, object]:
    """A batch's outputs from all processes, noted in ``kept``; rows are filled up to one length first."""
    loss, logits, labels = out
    accelerator, gather = trainer.accelerator, trainer.gather_function
    losses = shown = None
    if loss is not None:
        losses = gather(loss.repeat(batch))
        kept.losses.add(losses)
    if "inputs" in trainer.args.include_for_metrics:
        shown = trainer._prepare_input(inputs[main_input(trainer.model)])
        shown = gather(accelerator.pad_across_processes(shown, dim=1, pad_index=IGNORED))
        if keeps:
            kept.inputs.add(shown)
    if labels is not None:
        labels = accelerator.pad_across_processes(labels, dim=1, pad_index=IGNORED)
    if logits is not None:
        logits = accelerator.pad_across_processes(logits, dim=1, pad_index=IGNORED)
        if trainer.preprocess_logits_for_metrics is not None:
            logits = trainer.preprocess_logits_for_metrics(logits, labels)
        logits = gather(logits)
        if keeps:
            kept.predictions.add(logits)
    if labels is not None:
        labels = gather(labels)
        if keeps:
            kept.labels.add(labels)
    return losses, logits, labels, shown


def _weight(trainer: Trainer, count: int, most: int) -> int:
    """For how many rows a batch's loss stands; for a usual batch where they cannot be seen (texts end to end in a row).

    Where the rest of the data is known and one process reads it, what is gathered is cut to it.
    """
    unknown = trainer.args.world_size > 1 or trainer.accelerator.gradient_state.remainder < 0
    return count if most > 1 and unknown else trainer.args.eval_batch_size or count or 1


def _extra(trainer: Trainer, losses: object, inputs: object) -> dict[str, object]:
    wanted = trainer.args.include_for_metrics
    return {
        "losses": losses if "loss" in wanted else None,
        "inputs": inputs if "inputs" in wanted else None,
    }


def _named(trainer: Trainer, metrics: Metrics | None, losses: object, prefix: str) -> Metrics:
    """The metrics with the loss, all under the prefix, as plain numbers."""
    if metrics is not None and not isinstance(metrics, Mapping):
        raise InputError(
            "compute_metrics gives numbers by name", where="compute_metrics", expected="a dict", found=brief(metrics)
        )
    plain: Metrics = denumpify_detensorize(dict(metrics or {}))
    values = np.concatenate(losses) if isinstance(losses, list) and losses else losses
    if isinstance(values, np.ndarray) and values.size:
        finite = np.isfinite(values)
        if trainer.args.logging_nan_inf_filter and finite.any():
            values = values[finite]
        plain[f"{prefix}_loss"] = values.mean().item()
    if trainer.model_preparation_time is not None:
        plain[f"{prefix}_model_preparation_time"] = trainer.model_preparation_time
    return prefixed(plain, prefix)


def _samples(trainer: Trainer, loader: Loader, seen: int) -> int:
    """How many examples there were, over all processes."""
    dataset = getattr(loader, "dataset", None)
    for known in (dataset, loader):
        try:
            count = len(known) if known is dataset else trainer.num_examples(loader)  # type: ignore[arg-type]
        except (TypeError, AttributeError):
            continue
        return count or seen
    return seen


def prediction_step(
    trainer: Trainer, model: nn.Module, inputs: Inputs, loss_only: bool, ignore_keys: list[str] | None
) -> Step:
    """``Trainer.prediction_step``: see there."""
    names = trainer.label_names
    labelled = bool(names) and all(inputs.get(name) is not None for name in names)
    returns = inputs.get("return_loss")
    scored = labelled or (not names and bool(trainer.can_return_loss if returns is None else returns))
    given = prepared(trainer, inputs)
    hidden = ignored_keys(trainer.model) if ignore_keys is None else ignore_keys
    labels: object = None
    if scored:  # computing the loss may take them out
        found = nested_detach(tuple(given.get(name) for name in names))
        labels = found[0] if len(found) == 1 else found
    loss: Tensor | None = None
    with torch.no_grad(), trainer.compute_loss_context_manager():
        if scored:
            items = trainer._get_num_items_in_batch([given], trainer.args.device)
            trainer._divided = None
            loss, outputs = trainer.compute_loss(model, given, return_outputs=True, num_items_in_batch=items)
            loss = mean_of_all(trainer, loss.detach().mean(), given)
        else:
            outputs = model(**given)
    if loss_only:
        return loss, None, None
    logits = nested_detach(_shown(outputs, scored, hidden))
    return loss, logits[0] if len(logits) == 1 else logits, labels


def prepared(trainer: Trainer, inputs: Inputs) -> Inputs:
    """A batch on the device, still known as one without a row of this process's own if it is."""
    given = trainer._prepare_inputs(inputs)
    if trainer._idle is inputs:
        trainer._idle = given
    return given


def mean_of_all(trainer: Trainer, loss: Tensor, inputs: Inputs) -> Tensor:
    """The loss of all processes' rows, where each has only its part of a sum that was divided by all that is scored."""
    if trainer.args.world_size <= 1 or not trainer._divided or not trainer.args.average_tokens_across_devices:
        return loss
    own = loss * 0 if trainer._idle is inputs else loss
    return cast(Tensor, trainer.accelerator.reduce(own, reduction="mean"))


def ignored_keys(model: object) -> Sequence[str]:
    """Outputs that nobody measures, as a model's config says."""
    config = getattr(model, "config", None)
    return () if config is None else getattr(config, "keys_to_ignore_at_inference", ("past_key_values",))


def _shown(outputs: object, scored: bool, hidden: Sequence[str]) -> tuple[object, ...]:
    """A model's outputs besides the loss and what is ignored."""
    if isinstance(outputs, Mapping | ModelOutput):
        left_out = {*hidden, "loss"} if scored else set(hidden)
        return tuple(value for name, value in outputs.items() if name not in left_out)
    values = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return tuple(values[1:] if scored else values)
