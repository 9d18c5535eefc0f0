"""Train over machines with Ray: a worker is killed on the way, Ray starts it again, and training goes on.

    python examples/train_ray.py --workers 2

A small language model learns to count. After step 20 one worker kills itself, as a machine that fails would. Ray starts
all workers anew, and each goes on from the last checkpoint in the shared folder, bit for bit. On a cluster,
``ray.init(address="auto")`` and a folder that all machines see are all that changes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
from pathlib import Path

import torch
from omniform.trainer_utils import get_last_checkpoint

import omniform

LENGTH = 16


class Counting(torch.utils.data.Dataset):
    """Rows of ids that count on from somewhere, and begin again after 30."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(LENGTH) + index) % 30 + 2
        return {"input_ids": ids, "labels": ids}


class Accident(omniform.TrainerCallback):
    """Ends the last worker once, without a word."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "there was an accident"

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 20 and args.process_index == args.world_size - 1 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def work(settings: dict[str, object]) -> None:
    """What each worker does: an ordinary training script."""
    folder = Path(str(settings["folder"]))
    config = omniform.LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    arguments = omniform.TrainingArguments(
        output_dir=str(folder),
        max_steps=60,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=10,
        save_steps=10,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = omniform.Trainer(
        model=omniform.LlamaForCausalLM(config),
        args=arguments,
        train_dataset=Counting(),
        callbacks=[Accident(folder)],
    )
    last = get_last_checkpoint(str(folder))
    print(f"worker {arguments.process_index} of {arguments.world_size} begins: {last or 'afresh'}", flush=True)
    trainer.train(resume_from_checkpoint=last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="a folder that all workers see; a temporary one by default")
    given = parser.parse_args()

    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(num_cpus=given.workers + 1, include_dashboard=False, log_to_driver=True)
    folder = Path(given.folder or tempfile.mkdtemp(prefix="omniform-ray-"))
    trainer = TorchTrainer(
        work,
        train_loop_config={"folder": str(folder / "model")},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=given.workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=2)),
    )
    (folder / "model").mkdir(parents=True, exist_ok=True)
    trainer.fit()
    last = Path(get_last_checkpoint(str(folder / "model")) or folder)
    told = [one for one in json.loads((last / "trainer_state.json").read_text())["log_history"] if "loss" in one]
    survived = (folder / "model" / "there was an accident").exists()
    for one in (told[0], told[-1]):
        print(f"step {one['step']}: loss {one['loss']:.3f}")
    print("a worker died on the way" if survived else "no worker died")


if __name__ == "__main__":
    main()
