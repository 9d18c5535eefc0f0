"""Train the bundled detector: ``python examples/scenes/train_detector.py --out DIR``.

A small RT-DETR learns from nothing what lies where in a scene. The run is the same for the same seed; it is saved at
intervals and goes on from there when started again.
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

from omniform import RTDetrConfig, RTDetrForObjectDetection, Trainer, TrainingArguments, set_seed

SIDES = (80, 208)


def fresh(seed: int) -> RTDetrForObjectDetection:
    """The model that has learned nothing yet: twenty queries, for six things at most."""
    set_seed(seed)
    width, backbone = 64, [16, 32, 64, 96]
    config = RTDetrConfig(
        backbone_config={
            "model_type": "rt_detr_resnet",
            "embedding_size": 16,
            "hidden_sizes": backbone,
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage2", "stage3", "stage4"],
        },
        freeze_backbone_batch_norms=False,
        encoder_in_channels=backbone[1:],
        encoder_hidden_dim=width,
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        d_model=width,
        decoder_in_channels=[width] * 3,
        decoder_ffn_dim=128,
        decoder_attention_heads=4,
        decoder_n_points=4,
        decoder_layers=2,
        num_queries=20,
        num_denoising=20,
        initializer_range=0.05,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    return RTDetrForObjectDetection(config)


def write_processor(side: int, folder: Path) -> None:
    """Pictures are squeezed to a square, their pixels from -1 to 1."""
    settings = {
        "image_processor_type": "RTDetrImageProcessor", "do_resize": True, "size": {"height": side, "width": side},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_pad": False, "format": "coco_detection",
        "do_convert_annotations": True,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


class Scenes(Dataset[dict[str, object]]):
    """Pictures and what lies in them; number i is the same whoever draws it.

    Args:
        seed: of the run.
        count: how many there are.
        side: of the pictures, in pixels.
        wide: this share of them is long for certain: squeezed to a square, long pictures are the hard ones.
    """

    def __init__(self, seed: int, count: int, side: int, wide: float = 0.0) -> None:
        self.seed, self.count, self.side, self.wide = seed, count, side, wide

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        seen = see(wide_enough(f"detect {self.seed} {index}", self.wide), SIDES)
        pixels = np.array(seen.picture.resize((self.side, self.side), 2), dtype=np.float32)
        corners = torch.tensor(seen.boxes) / torch.tensor(seen.picture.size).repeat(2)
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=-1)
        return {
            "pixel_values": torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1,
            "labels": {"class_labels": torch.tensor(seen.kinds), "boxes": boxes},
        }


def collate(rows: list[dict[str, Tensor]]) -> dict[str, object]:
    """Pictures side by side, labels in a list."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": [row["labels"] for row in rows],
    }


def main() -> None:
    """Train, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; its state lies beside it")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--side", type=int, default=128, help="of the pictures that the model reads, in pixels")
    parser.add_argument("--wide", type=float, default=0.0, help="share of the pictures that are long for certain")
    parser.add_argument("--begin", type=Path, help="a checkpoint to go on from, instead of from nothing")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = RTDetrForObjectDetection.from_pretrained(args.begin) if args.begin else fresh(args.seed)
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
            weight_decay=1e-4,
            max_grad_norm=1.0,
            logging_steps=25,
            save_steps=250,
            save_total_limit=1,
            seed=args.seed,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        ),
        train_dataset=Scenes(args.seed, args.steps * args.batch, args.side, args.wide),
        data_collator=collate,
    )
    trainer.train(resume_from_checkpoint=any(state.glob("checkpoint-*")))
    model.save_pretrained(str(args.out))
    write_processor(args.side, args.out)


if __name__ == "__main__":
    main()
