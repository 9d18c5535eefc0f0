"""What a Trainer reports while it trains, and what is due after a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.core.errors import UnknownNameError, listed
from omniform.train.metrics import print_metrics, speed_metrics
from omniform.train.values import Trial
from omniform.train.wrapped import main_input

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer


@runtime_checkable
class CountsParameters(Protocol):
    """A model that can say how large it is."""

    def num_parameters(self, *, exclude_embeddings: bool) -> int: ...


def log_metrics(trainer: Trainer, split: str, metrics: Mapping[str, object]) -> None:
    """Print metrics as a table, in the main process."""
    if trainer.is_world_process_zero():
        print_metrics(split, metrics)


def after_step(
    trainer: Trainer,
    tr_loss: Tensor,
    grad_norm: Tensor | float | None,
    model: nn.Module,
    trial: Trial,
    epoch: float,
    ignore_keys_for_eval: list[str] | None,
    start_time: float,
    learning_rate: float | None = None,
) -> None:
    """``Trainer._maybe_log_save_evaluate``: a report, an evaluation, a checkpoint, where a callback asked for them."""
    steps = trainer.state.global_step - trainer._globalstep_last_logged
    if trainer.control.should_log and steps > 0:
        total = trainer.accelerator.gather(tr_loss).mean().item()
        tr_loss.zero_()  # in place: it is the trainer's sum
        logs: dict[str, float] = {"loss": total / steps}
        if grad_norm is not None:
            logs["grad_norm"] = grad_norm.item() if isinstance(grad_norm, Tensor) else grad_norm
        logs["learning_rate"] = trainer._get_learning_rate() if learning_rate is None else learning_rate
        trainer._total_loss_scalar += total
        trainer._globalstep_last_logged = trainer.state.global_step
        trainer.store_flos()
        trainer.log(logs, start_time)
    if trainer.control.should_evaluate:
        metrics = trainer._evaluate(trial, ignore_keys_for_eval)
        is_best = trainer._determine_best_metric(metrics=metrics, trial=trial)
        if trainer.args.save_strategy == "best":
            trainer.control.should_save = is_best
    if trainer.control.should_save:
        trainer._save_checkpoint(model, trial)
        trainer._event("on_save")


def log(trainer: Trainer, logs: dict[str, float], started: float | None) -> None:
    """``Trainer.log``: keep a report, and show it to the callbacks."""
    logs["epoch"] = trainer.state.epoch
    if trainer.args.include_num_input_tokens_seen != "no":
        logs["num_input_tokens_seen"] = trainer.state.num_input_tokens_seen
        if started is not None:
            here = trainer.state.num_input_tokens_seen - trainer._initial_num_input_tokens_seen
            logs |= speed_metrics("train", started, num_tokens=here)
    trainer.state.log_history.append({**logs, "step": trainer.state.global_step})
    trainer._event("on_log", logs=logs)


def store_flos(trainer: Trainer) -> None:
    """``Trainer.store_flos``: add the operations since the last time, those of all processes."""
    here = torch.tensor(trainer.current_flos, device=trainer.args.device)
    trainer.state.total_flos += float(trainer.accelerator.gather(here).sum().item())
    trainer.current_flos = 0.0


def operations(trainer: Trainer, inputs: Mapping[str, object]) -> int:
    """``Trainer.floating_point_ops``: about six for each token and parameter (forward and backward).

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
    """
    tokens = inputs.get(main_input(trainer.model))
    if not isinstance(tokens, Tensor):
        return 0
    if trainer._counted is None or trainer._counted[0] is not trainer.model:
        counts = isinstance(trainer.model, CountsParameters)
        size = cast(CountsParameters, trainer.model).num_parameters(exclude_embeddings=True) if counts else 0
        trainer._counted = (trainer.model, size)
    return 6 * tokens.numel() * trainer._counted[1]


def learning_parameters(trainer: Trainer) -> int:
    """``Trainer.get_num_trainable_parameters``: how many numbers are learned."""
    return sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)


def save_state(trainer: Trainer) -> None:
    """``Trainer.save_state``: write ``trainer_state.json`` into the output folder, in the main process."""
    if trainer.is_world_process_zero():
        folder = Path(str(trainer.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trainer.state.save_to_json(folder / "trainer_state.json")


def watched(trainer: Trainer, metrics: Mapping[str, float]) -> float:
    """The metric by which models are compared (``metric_for_best_model``).

    Raises:
        UnknownNameError: the evaluation did not find it.
    """
    name = f"eval_{str(trainer.args.metric_for_best_model).removeprefix('eval_')}"
    if name not in metrics:
        raise UnknownNameError(
            "the evaluation has no such metric",
            where="metric_for_best_model",
            expected=listed(metrics),
            found=name,
            remedy="Let compute_metrics give it, or name another.",
        )
    return metrics[name]


def determine_best(trainer: Trainer, metrics: Mapping[str, float], trial: Trial) -> bool:
    """``Trainer._determine_best_metric``: whether this evaluation was the best so far; it is noted then."""
    if trainer.args.metric_for_best_model is None:
        return False
    value, best = watched(trainer, metrics), trainer.state.best_metric
    if best is not None and not (value > best if trainer.args.greater_is_better else value < best):
        return False
    trainer.state.best_metric = value
    if trainer.args.save_strategy in ("steps", "epoch", "best"):
        trainer.state.best_global_step = trainer.state.global_step
    return True
