"""``omniform train``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from omniform.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from omniform.cli.main import Parser
    from omniform.train.recipe import Recipe
    from omniform.train.trainer import Trainer

CHANGE = re.compile(r"[A-Za-z_][\w.\-]*=.*", re.DOTALL)
"""A value instead of the file's: ``arguments.learning_rate=1e-4``."""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "Train a model as a YAML file says: task, model, data, arguments (extra train)."
    train = commands.add_parser("train", help=text, description=text, allow_abbrev=False)
    train.add_argument("recipe", metavar="CONFIG.yaml", help="task, model, data, arguments; see docs/training.md")
    train.add_argument(
        "changes", nargs="*", metavar="KEY=VALUE", help="a value instead of the file's: arguments.learning_rate=1e-4"
    )
    how = train.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="count steps and memory, and stop")
    how.add_argument(
        "--verify-resume",
        action="store_true",
        help="prove that stopping and starting again changes nothing, or say what breaks it (exit code 1)",
    )
    how.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="go on from a checkpoint; from the last one in the output folder if none is named",
    )
    train.pairs = CHANGE
    train.set_defaults(work=work, command=train)


def work(given: argparse.Namespace) -> None:
    """Read the recipe, make its Trainer, and train."""
    from omniform.train.recipe import read_recipe
    from omniform.train.tasks.base import trainer_of

    recipe = read_recipe(given.recipe, dict(_change(pair) for pair in given.changes))
    trainer = trainer_of(recipe)
    if given.verify_resume:
        from omniform.train.verify import verify_resume

        report = verify_resume(partial(trainer_of, recipe))
        print(report)
        if not report.exact:
            given.command.exit(1)
    elif given.dry_run:
        _forecast(trainer)
    else:
        _train(trainer, recipe, given.resume or None)


def _train(trainer: Trainer, recipe: Recipe, checkpoint: str | bool | None) -> None:
    tells = trainer.is_world_process_zero()
    if checkpoint is not None:
        checkpoint = trainer._checkpoint_to_resume(checkpoint)  # one that is no checkpoint is refused before a word
    if tells:
        print(_begins(trainer, recipe), flush=True)
    measured = trainer.eval_dataset is not None
    # A model that goes on has learned already; the checkpoint is loaded later.
    before = trainer.evaluate() if measured and checkpoint is None else {}
    done = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", done.metrics)
    after = trainer.evaluate() if measured else {}
    if measured:
        trainer.save_metrics("eval", after)
    if tells:
        took = _time(done.metrics["train_runtime"])
        print(f"trained: {done.global_step:,} steps in {took}, loss {done.training_loss:.4f}")
        for line in _improved(before, after):
            print(line)
        print(f"model: {trainer.args.output_dir}")


def _begins(trainer: Trainer, recipe: Recipe) -> str:
    """What is about to be trained, in a line."""
    count = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    numbers = f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count:,}"
    train, held_out = trainer.train_dataset, trainer.eval_dataset
    assert train is not None
    examples = f"{len(train):,} examples"  # type: ignore[arg-type] # all that a recipe reads has a length
    kept = "" if held_out is None else f", {len(held_out):,} to evaluate on"  # type: ignore[arg-type]
    return f"{recipe.task}: {numbers} trained parameters, {examples}{kept}"


def _time(seconds: object) -> str:
    minutes, rest = divmod(round(float(str(seconds))), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _change(pair: str) -> tuple[str, object]:
    """``arguments.seed=3`` as a name and a value, read as YAML."""
    import yaml

    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise InputError("this changes nothing", where="KEY=VALUE", expected="arguments.seed=3", found=pair)
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError("this is no YAML", where=name, found=value) from error


def _forecast(trainer: Trainer) -> None:
    from omniform.engine.memory import available
    from omniform.train.dry import forecast, told

    for line in told(forecast(trainer), available(trainer.args.device)):
        print(line)


def _improved(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """What training changed, number by number."""
    timed = ("_runtime", "_per_second", "_model_preparation_time")
    names = [name for name in sorted(after) if not name.endswith(timed) and name != "epoch"]
    return [
        f"{name}: {f'{before[name]:.4f} before, ' if name in before else ''}{after[name]:.4f} after" for name in names
    ]
