"""Train the bundled segmenter: ``python examples/scenes/train_segmenter.py --out DIR``.

A small SegFormer learns from nothing which pixels of a scene are which shape's. The run is the same for the same seed;
it is saved at intervals and goes on from there when started again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from truth import NAMES, see, wide_enough

from omniform import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    Trainer,
    TrainingArguments,
    set_seed,
)

SIDES = (80, 208)
LABELS = ("background", *NAMES)


def fresh(seed: int) -> SegformerForSemanticSegmentation:
    """The model that has learned nothing yet: maps of half the picture's side at the finest."""
    set_seed(seed)
    config = SegformerConfig(
        depths=[1, 1, 2, 1],
        strides=[2, 2, 2, 2],
        patch_sizes=[5, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        hidden_sizes=[16, 32, 64, 96],
        num_attention_heads=[1, 2, 4, 6],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=40,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
        initializer_range=0.1,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    return SegformerForSemanticSegmentation(config)


def write_processor(side: int, folder: Path) -> None:
    """Pictures are squeezed to a square, their pixels from -1 to 1."""
    settings = {
        "image_processor_type": "SegformerImageProcessor", "do_resize": True, "size": {"height": side, "width": side},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_reduce_labels": False,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


class Scenes(Dataset[dict[str, Tensor]]):
    """Pictures and the classes of their pixels; number i is the same whoever draws it.

    Args:
        seed: of the run.
        count: how many there are.
        side: of the pictures, in pixels.
        fine: side of the maps of classes.
        wide: this share of them is long for certain: squeezed to a square, long pictures are the hard ones.
    """

    def __init__(self, seed: int, count: int, side: int, fine: int, wide: float = 0.0) -> None:
        self.seed, self.count, self.side, self.fine, self.wide = seed, count, side, fine, wide

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        seen = see(wide_enough(f"segment {self.seed} {index}", self.wide), SIDES)
        pixels = np.array(seen.picture.resize((self.side, self.side), 2), dtype=np.float32)
        classes = np.array(seen.classes().resize((self.fine, self.fine), 0), dtype=np.int64)
        return {
            "pixel_values": torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1,
            "labels": torch.from_numpy(classes),
        }


def main() -> None:
    """Train, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; its state lies beside it")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--side", type=int, default=112, help="of the pictures that the model reads, in pixels")
    parser.add_argument("--fine", type=int, default=56, help="side of the maps that the loss compares, in pixels")
    parser.add_argument("--wide", type=float, default=0.0, help="share of the pictures that are long for certain")
    parser.add_argument("--begin", type=Path, help="a checkpoint to go on from, instead of from nothing")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = SegformerForSemanticSegmentation.from_pretrained(args.begin) if args.begin else fresh(args.seed)
    print(f"{model.num_parameters():,} parameters", flush=True)
    state = args.out.with_suffix(".state")
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(state),
            max_steps=args.steps,
            per_device_train_batch_size=args.batch,
            learning_rate=args.rate,
            lr_scheduler_type="cosine",
            warmup_steps=min(100, args.steps // 10),
            weight_decay=0.01,
            max_grad_norm=1.0,
            logging_steps=25,
            save_steps=250,
            save_total_limit=1,
            seed=args.seed,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Scenes(args.seed, args.steps * args.batch, args.side, args.fine, args.wide),
    )
    trainer.train(resume_from_checkpoint=any(state.glob("checkpoint-*")))
    model.save_pretrained(str(args.out))
    write_processor(args.side, args.out)


if __name__ == "__main__":
    main()
