"""A training's beginning, kept so that it can begin anew with smaller batches as if nothing had been before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from omniform.core.logs import get_logger
from omniform.train.random_states import States, global_states, set_global_states
from omniform.train.state import ExportableState

if TYPE_CHECKING:
    from omniform.train.metrics import TrainOutput
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Beginning:
    """What an attempt changes, as it was before.

    Attributes:
        tensors: the weights that learn, and all buffers, on the host; None where an engine has the model in parts.
        random: states of the global generators.
        callbacks: attributes of those that count, in their order.
        optimizer: the state of the user's own optimizer; None without one.
        schedule: the state of the user's own schedule; None without one.
        scaler: what 16-bit gradients are multiplied by; None where they are not.
    """

    tensors: Mapping[str, Tensor] | None
    random: States
    callbacks: tuple[Mapping[str, object], ...]
    optimizer: dict[str, object] | None
    schedule: dict[str, object] | None
    scaler: dict[str, object] | None

    @classmethod
    def of(cls, trainer: Trainer) -> Beginning:
        """Keep what there is now; takes as much of the host's memory as what learns."""
        whole = not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled)
        given = trainer.optimizer if trainer._given_optimizer else None
        schedule = None if trainer._created_lr_scheduler else trainer.lr_scheduler
        scaler = trainer.accelerator.scaler
        return cls(
            {n: t.detach().to("cpu", copy=True) for n, t in _changing(trainer.model).items()} if whole else None,
            global_states(),
            tuple(copy.deepcopy(one.state().get("attributes", {})) for one in _counting(trainer)),
            None if given is None else copy.deepcopy(given.state_dict()),
            None if schedule is None else copy.deepcopy(schedule.state_dict()),
            None if scaler is None else scaler.state_dict(),
        )

    def tried(self, trainer: Trainer) -> Callable[..., TrainOutput]:
        """The trainer's inner loop, to be called with a size of batches; with other ones it begins anew."""

        def attempt(batch_size: int, **given: object) -> TrainOutput:
            if batch_size != trainer._train_batch_size:
                logger.warning("Memory ran out: training begins again with batches of %s examples", batch_size)
                self.restore(trainer, batch_size)
            loop: Callable[..., TrainOutput] = trainer._inner_training_loop
            return loop(batch_size, **given)

        return attempt

    def restore(self, trainer: Trainer, batch_size: int) -> None:
        """Set all of it back, for batches of another size."""
        trainer._train_batch_size = batch_size
        trainer.model.zero_grad(set_to_none=True)
        trainer.model_wrapped = trainer.model
        trainer._created_lr_scheduler |= self.schedule is None
        if not trainer._given_optimizer:
            trainer.optimizer = None
        if trainer.is_deepspeed_enabled:
            _tell_deepspeed(trainer, batch_size)
        if self.tensors is None:
            logger.warning("The model lies in parts: its weights go on from where the attempt before has left them")
        else:
            with torch.no_grad():
                for name, tensor in _changing(trainer.model).items():
                    tensor.copy_(self.tensors[name])
        for callback, attributes in zip(_counting(trainer), self.callbacks, strict=True):
            vars(callback).update(copy.deepcopy(dict(attributes)))
        if self.optimizer is not None:
            assert trainer.optimizer is not None
            trainer.optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        if self.schedule is not None:
            assert trainer.lr_scheduler is not None
            trainer.lr_scheduler.load_state_dict(copy.deepcopy(self.schedule))
        if self.scaler is not None:
            trainer.accelerator.scaler.load_state_dict(self.scaler)
        set_global_states(self.random)


def _tell_deepspeed(trainer: Trainer, batch_size: int) -> None:
    from omniform.train.parallel.deepspeed import propagate_args_to_deepspeed

    asked = trainer.args.per_device_train_batch_size
    trainer.args.per_device_train_batch_size = batch_size // max(1, trainer.args.n_gpu)
    propagate_args_to_deepspeed(trainer.accelerator, trainer.args, auto_find_batch_size=True)
    trainer.args.per_device_train_batch_size = asked


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that training changes."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {**learning, **dict(model.named_buffers())}


def _counting(trainer: Trainer) -> list[ExportableState]:
    callbacks = trainer.callback_handler.callbacks
    return [cast(ExportableState, one) for one in callbacks if isinstance(one, ExportableState)]
