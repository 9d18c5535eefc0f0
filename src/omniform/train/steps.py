"""One step of the optimizer: its batches, their forwards and backwards, clipping, the step itself."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from omniform.architectures.model import Model
from omniform.core.errors import InputError, brief, listed
from omniform.core.logs import get_logger
from omniform.core.outputs import ModelOutput
from omniform.train.counting import reads, shares_of
from omniform.train.optimizing import waits_for_metrics
from omniform.train.parallel.rest import is_idle
from omniform.train.values import Inputs, Items
from omniform.train.workers import next_of
from omniform.train.wrapped import main_input, padding_token, without_adapters

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)


@runtime_checkable
class Indexed(Protocol):
    """A dataset whose examples are asked for by their number."""

    def __getitem__(self, index: int, /) -> object: ...


class NothingLearnsError(InputError, RuntimeError):
    """A loss without a gradient; torch calls it a RuntimeError."""


@runtime_checkable
class HasModes(Protocol):
    """An optimizer that keeps other weights for training than for use (schedule-free)."""

    def train(self) -> None: ...
    def eval(self) -> None: ...


def take(trainer: Trainer, batches: Iterator[Inputs], count: int, device: torch.device) -> tuple[list[Inputs], Items]:
    """The next ``count`` batches, fewer at the end of the data, and what their loss is the mean over."""
    taken = []
    for _ in range(count):
        try:
            taken.append(next_of(batches))
        except StopIteration:
            break
    trainer._idle = taken[-1] if taken and trainer.args.world_size > 1 and is_idle(trainer.accelerator) else None
    return taken, trainer._get_num_items_in_batch(taken, device)


def accumulate(trainer: Trainer, model: nn.Module, batches: Sequence[Inputs], items: Items) -> bool:
    """Forward and backward of all batches of a step; gradients meet those of other processes at the last one.

    Returns:
        Whether it came to the last: a callback may end it before.

    Raises:
        InputError: a loss that is no number, or lies on another device.
    """
    trainer.current_gradient_accumulation_steps = len(batches)
    trainer._step_loss.zero_()
    for place, (inputs, share) in enumerate(zip(batches, shares_of(trainer, batches, items), strict=True)):
        last = place == len(batches) - 1
        trainer.accelerator.gradient_state._set_sync_gradients(last)
        trainer._share = share
        with contextlib.nullcontext() if last or _always_syncs(trainer) else trainer.accelerator.no_sync(model=model):
            loss = trainer.training_step(model, inputs, items)
        _note_loss(trainer, loss)
        trainer.current_flos += float(trainer.floating_point_ops(inputs))
        trainer._track_num_input_tokens(inputs)
        if not last:
            trainer._event("on_substep_end")
            if trainer.control.should_epoch_stop or trainer.control.should_training_stop:
                return False
    return True


def _always_syncs(trainer: Trainer) -> bool:
    told = trainer.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False)
    return bool(told) or trainer.is_deepspeed_enabled


def _note_loss(trainer: Trainer, loss: Tensor) -> None:
    """Add to the sum that is reported; what is no number counts as the others did. Nothing waits for the device."""
    if loss.device != trainer._tr_loss.device:
        raise InputError(
            "the loss lies on another device than the trainer's",
            where="loss",
            expected=trainer._tr_loss.device,
            found=loss.device,
        )
    trainer._step_loss += loss
    if trainer.args.logging_nan_inf_filter:
        usual = trainer._tr_loss / (1 + trainer.state.global_step - trainer._globalstep_last_logged)
        loss = torch.where(loss.isfinite(), loss, usual)
    trainer._tr_loss += loss


def training_step(trainer: Trainer, model: nn.Module, inputs: Inputs, items: Items) -> Tensor:
    """``Trainer.training_step``: forward and backward of one batch; the loss without its graph."""
    context, inputs = trainer._prepare_context_parallel_inputs(model, inputs)
    with context():
        model.train()
        trainer.optimizer_mode(train=True)
        inputs = trainer._prepare_inputs(inputs)
        trainer._divided = None
        with trainer.compute_loss_context_manager():
            loss = cast(Tensor, trainer.compute_loss(model, inputs, num_items_in_batch=items))
        check_loss(loss)
        del inputs
        every = trainer.args.torch_empty_cache_steps
        if every is not None and trainer.state.global_step % every == 0:
            torch.accelerator.empty_cache() if torch.accelerator.is_available() else None
        if not is_divided(trainer, items):
            loss = loss * trainer._share
        elif not trainer._share:  # no row of this process's own
            loss = loss * 0
        trainer.accelerator.backward(loss, **_backward_options(trainer))
        return loss.detach().reshape(())


def _backward_options(trainer: Trainer) -> dict[str, object]:
    if trainer.is_deepspeed_enabled:  # it would divide by the number of batches once more
        return {"scale_wrt_gas": False}
    return {"learning_rate": trainer._get_learning_rate()} if trainer.args.optim in ("lomo", "adalomo") else {}


def check_loss(loss: object) -> None:
    """Raise :class:`InputError` unless a loss is one number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shown = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else brief(loss)
        raise InputError(
            "the loss is not one number",
            where="compute_loss",
            expected="a tensor of one number",
            found=shown,
            remedy="Reduce it, by its mean or its sum divided by num_items_in_batch.",
        )
    if not loss.requires_grad:
        raise NothingLearnsError(
            "nothing learns from this loss: it has no gradient",
            where="compute_loss",
            expected="a loss that comes from parameters with requires_grad",
            found="one that does not",
            remedy="See that the parameters to learn are not all frozen, and that no .detach(), .item(), argmax or "
            "torch.no_grad() stands between them and the loss.",
        )


def is_divided(trainer: Trainer, items: Items) -> bool:
    """Whether the loss just computed is a part of the step's mean already, rather than a batch's own mean."""
    if trainer.loss_is_scaled_for_ga is not None:
        return trainer.loss_is_scaled_for_ga
    if trainer._divided is not None:  # our own compute_loss ran, perhaps within the user's
        return trainer._divided
    return items is not None and reads(trainer.compute_loss)


def compute_loss(
    trainer: Trainer, model: nn.Module, inputs: Inputs, items: Items, *, loss_only: bool = False
) -> tuple[Tensor, object]:
    """``Trainer.compute_loss``: the loss of a batch, and the outputs.

    Args:
        loss_only: that nobody looks at the outputs, so that the model need not compute what its loss does not read.

    Raises:
        InputError: the model gave no loss.
    """
    own = trainer.compute_loss_func
    labels = None
    if (own is not None or trainer.label_smoother is not None) and "labels" in inputs:
        inputs = dict(inputs)
        labels = inputs.pop("labels")
    if trainer.model_accepts_loss_kwargs and items is not None:
        inputs = {**inputs, "num_items_in_batch": items}
    if loss_only and own is None and labels is None and isinstance(without_adapters(trainer.model), Model):
        inputs = {**inputs, "loss_only": True}
    outputs = model(**inputs)
    trainer._divided = items is not None and (own is not None or trainer.model_accepts_loss_kwargs)
    if own is not None:
        if labels is None:
            logger.warning_once("compute_loss_func is called without labels: the batch has none under that name")
        loss = own(outputs, labels, num_items_in_batch=items)
        trainer._divided = trainer._divided and reads(own)
    elif isinstance(labels, Tensor) and trainer.label_smoother is not None:
        shifts = trainer._shifts_labels
        loss = trainer.label_smoother(outputs, labels, shift_labels=shifts, num_items_in_batch=items)
    else:
        loss = _given_loss(trainer, outputs, inputs)
    if trainer._divided and trainer.args.average_tokens_across_devices:
        # Gradients of processes are averaged, and each of them has a part of the sum.
        processes = trainer.accelerator.num_processes // trainer.get_tp_size()
        loss = loss * processes
    return loss, outputs


def _given_loss(trainer: Trainer, outputs: object, inputs: Mapping[str, object]) -> Tensor:
    loss: object = outputs
    if isinstance(outputs, Mapping | ModelOutput):
        loss = outputs.get("loss")
    elif isinstance(outputs, tuple | list) and outputs:
        loss = outputs[0]
    if isinstance(loss, Tensor):
        return loss
    raise _no_loss(trainer, loss, outputs, inputs)


def _no_loss(trainer: Trainer, loss: object, outputs: object, inputs: Mapping[str, object]) -> InputError:
    wanted = trainer.label_names or ["labels"]
    missing = [name for name in wanted if name not in inputs]
    left_out = _left_out(trainer.train_dataset, missing) if trainer.is_in_train else None
    gave = listed(outputs) if isinstance(outputs, Mapping | ModelOutput) else brief(outputs)
    if isinstance(loss, int | float):
        gave = f"a loss that is a plain number ({loss}), without a gradient"
    found = f"a batch with {listed(sorted(set(inputs) - {'num_items_in_batch', 'loss_only'}))}, and outputs {gave}"
    if left_out is not None:
        name, value = left_out
        return InputError(
            f"the model gave no loss: the collator left out {name!r}, which is no number",
            where=f"train_dataset, example 0, column {name!r}",
            expected="numbers of classes, or other numbers",
            found=f"{brief(value)}; so {found}",
            remedy="Turn the labels into numbers: model.config.label2id names them; datasets has class_encode_column.",
        )
    return InputError(
        f"the model gave no loss: the batch has no {' or '.join(missing)}" if missing else "the model gave no loss",
        where=type(without_adapters(trainer.model)).__name__,
        expected=f"a batch with {listed(wanted)}" if missing else "an output whose loss is a tensor",
        found=found,
        remedy="Name the labels with label_names, let the collator make them, or give a compute_loss_func.",
    )


def _left_out(dataset: object, names: Sequence[str]) -> tuple[str, object] | None:
    """A label that an example has and no tensor can hold, by its name; looked for where an error is told anyway."""
    if not names or not isinstance(dataset, Indexed):
        return None
    try:
        example = dataset[0]
    except Exception:  # whatever goes wrong there is not what is to be told
        return None
    if not isinstance(example, Mapping):
        return None
    return next(((name, example[name]) for name in names if isinstance(example.get(name), str)), None)


def step_optimizer(trainer: Trainer, model: nn.Module) -> tuple[Tensor | float | None, float]:
    """Clip, step, schedule, forget the gradients; the gradients' norm before, and the learning rate that was used."""
    norm: Tensor | float | None = None
    if trainer.args.max_grad_norm:  # None: none is cut, as for 0
        norm = trainer._clip_grad_norm(model)
    norm = trainer._get_grad_norm(model, grad_norm=norm)
    trainer._event("on_pre_optimizer_step")
    assert trainer.optimizer is not None
    trainer.optimizer.step()
    trainer._event("on_optimizer_step")
    rate = trainer._get_learning_rate()
    if not _was_skipped(trainer, norm) and not waits_for_metrics(trainer.lr_scheduler):
        cast(LRScheduler, trainer.lr_scheduler).step()
    model.zero_grad()
    return norm, rate


def _was_skipped(trainer: Trainer, norm: Tensor | float) -> bool:
    """Whether gradients were infinite under scaled losses, so that weights stayed as they were.

    Fused optimizers look at that themselves: accelerate sees them step, and does not know.
    """
    if trainer.accelerator.optimizer_step_was_skipped:
        return True
    return trainer.accelerator.scaler is not None and not math.isfinite(norm)


def clip(trainer: Trainer, model: nn.Module) -> Tensor | float:
    """``Trainer._clip_grad_norm``: make gradients no longer than ``max_grad_norm``; their length before."""
    return _gradient_norm(trainer, model, trainer.args.max_grad_norm)


def grad_norm(trainer: Trainer, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
    """``Trainer._get_grad_norm``: the length of the gradients, where clipping has not told it."""
    return _gradient_norm(trainer, model, float("inf")) if grad_norm is None else grad_norm


def _gradient_norm(trainer: Trainer, model: nn.Module, most: float) -> Tensor | float:
    norm: Tensor | float = trainer.accelerator.clip_grad_norm_(model.parameters(), most)
    if trainer.is_deepspeed_enabled and isinstance(norm, Tensor):
        return norm.item()
    return norm


def on_device(trainer: Trainer, data: object) -> object:
    """The same nested data, its tensors on the trainer's device (and of DeepSpeed's dtype)."""
    if isinstance(data, Mapping):
        return type(data)({name: trainer._prepare_input(value) for name, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, (tuple, list)):
        return type(data)(trainer._prepare_input(value) for value in data)
    if not isinstance(data, Tensor):
        return data
    if trainer.is_deepspeed_enabled and (data.is_floating_point() or data.is_complex()):
        return data.to(trainer.args.device, trainer.accelerator.state.deepspeed_plugin.hf_ds_config.dtype())
    return data.to(trainer.args.device)


def context_inputs(
    trainer: Trainer, model: nn.Module, inputs: Inputs
) -> tuple[Callable[[], AbstractContextManager[object]], Inputs]:
    """``Trainer._prepare_context_parallel_inputs``: what spreads a context over processes, and the inputs for it."""
    return contextlib.nullcontext, inputs


def set_mode(trainer: Trainer, train: bool) -> None:
    """``Trainer.optimizer_mode``: tell an optimizer that keeps several sets of weights which are wanted now."""
    optimizer = trainer.optimizer
    inner = vars(optimizer).get("optimizer", optimizer) if optimizer is not None else None  # accelerate's
    if issubclass(type(inner), HasModes):  # asked of classes, it is remembered
        modes = cast(HasModes, inner)
        modes.train() if train else modes.eval()


def prepare_inputs(trainer: Trainer, inputs: Inputs) -> Inputs:
    """A batch on the device.

    Raises:
        InputError: there is nothing in it.
    """
    if not inputs:
        trainer._set_signature_columns_if_needed()
        raise InputError(
            "the batch is empty",
            where="data_collator",
            expected=f"some of {listed(trainer._signature_columns or ())}",
            remedy="See that the dataset's columns have the names of what the model takes.",
        )
    return cast(Inputs, trainer._prepare_input(inputs))


def count_tokens(trainer: Trainer, inputs: Inputs) -> None:
    """Add a batch's tokens to those seen, if they are counted (``include_num_input_tokens_seen``)."""
    how = trainer.args.include_num_input_tokens_seen
    name = main_input(trainer.model)
    tokens, mask = inputs.get(name), inputs.get("attention_mask")
    if isinstance(tokens, Tensor) and not tokens.is_floating_point():
        trainer.state.tokens_read += tokens.numel() * trainer.args.world_size  # about, and for nothing: for the bar
    if how == "no":
        return
    if not isinstance(tokens, Tensor):
        logger.warning_once("Tokens cannot be counted: batches have no %s (the model's main_input_name)", name)
        return
    count: Tensor | int = tokens.numel()
    if how == "non_padding":
        pad = padding_token(trainer.processing_class)
        if isinstance(mask, Tensor):
            count = mask.sum()
        elif pad is not None:
            count = (tokens != pad).sum()
        else:
            logger.warning_once("Padding cannot be told from tokens: all are counted")
    here = torch.as_tensor(count, device=trainer.args.device, dtype=torch.int64)
    trainer.state.num_input_tokens_seen += int(trainer.accelerator.gather(here).sum().item())
