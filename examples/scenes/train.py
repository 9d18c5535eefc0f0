"""Train the bundled checkpoint: ``python examples/scenes/train.py --out DIR``.

First the vision tower alone learns to name what every patch of a picture shows; then the whole model learns to answer
questions. The run is the same for the same seed. It is saved at intervals and goes on from there when started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from data import IGNORED, SIDES, Batch, Layout, Scenes, to_pixels
from draw import draw_finish, draw_scene, render
from recipe import Probe, Recipe, build_model, initialise, model_config
from tokenizer import save as save_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

SHOW, SAVE = 50, 500


class Run:
    """A training run: model, probe, optimizers, and how far they have come."""

    def __init__(self, recipe: Recipe, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.step = 0
        conversations = Scenes(recipe.layout, recipe.seed, looks=0, steps=0, batch=0).conversations
        vocabulary = -(-conversations.tokenizer.get_vocab_size() // 8) * 8
        self.config = model_config(recipe, conversations.ids, vocabulary)
        self.model = build_model(self.config)
        initialise(self.model, recipe, _sample(recipe))
        self.probe = Probe(recipe.width)
        matrices = [p for name, p in self.model.named_parameters() if ".layers." in name and p.dim() == 2]
        inside = {id(p) for p in matrices}
        others = [p for p in (*self.model.parameters(), *self.probe.parameters()) if id(p) not in inside]
        self.optimizers: dict[torch.optim.Optimizer, float] = {
            torch.optim.Muon(matrices, lr=0.0, weight_decay=recipe.decay, momentum=0.95): recipe.matrix_rate,
            torch.optim.AdamW(others, lr=0.0, weight_decay=0.0, betas=(0.9, 0.98)): recipe.rate,
        }

    def batches(self, workers: int) -> Iterator[Batch]:
        """The batches that are still to come."""
        r = self.recipe
        data = Scenes(r.layout, r.seed, looks=r.looks, steps=r.steps, batch=r.batch, first=self.step)
        ahead = 8 if workers else None
        yield from DataLoader(
            data, batch_size=None, num_workers=workers, prefetch_factor=ahead, worker_init_fn=_yield_to_training
        )

    def learn(self, batch: Batch) -> list[float]:
        """One step. Returns loss and accuracy of answers, loss and accuracies of patches."""
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * self._pace()
        with torch.autocast("cpu", torch.bfloat16):
            answers, right, features = self._answers(batch)
            patches, named = self.probe(features, batch.patches)
        (answers + self.recipe.probe * patches).backward()
        for optimizer in self.optimizers:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return [answers.item(), right, patches.item(), *named]

    def _pace(self) -> float:
        """The share of the peak learning rate: up at the start of both parts, and down to the end."""
        r = self.recipe
        since = self.step - r.looks if self.step >= r.looks else self.step
        # A batch with questions takes four times as long as one without.
        done = (min(self.step, r.looks) + 4 * max(0, self.step - r.looks)) / (r.looks + 4 * r.steps)
        return min(1.0, (since + 1) / r.warmup) * max(0.01, 1 - done)

    def _answers(self, batch: Batch) -> tuple[Tensor, float, Tensor]:
        if batch.input_ids.shape[1] == 0:
            features = self.model.model.get_image_features(batch.pixel_values)
            return torch.zeros(()), 0.0, torch.cat(tuple(features.pooler_output))
        out = self.model.model(
            input_ids=batch.input_ids,
            pixel_values=batch.pixel_values,
            attention_mask=batch.mask,
            position_ids=batch.positions,
        )
        targets = batch.labels[:, 1:]
        asked = targets != IGNORED
        # Scores are computed where they count: most of a row is questions.
        logits, targets = self.model.lm_head(out.last_hidden_state[:, :-1][asked]).float(), targets[asked]
        right = (logits.argmax(-1) == targets).float().mean().item()
        return F.cross_entropy(logits, targets), right, out.image_hidden_states

    def save(self, file: Path) -> None:
        """Write all that is needed to go on."""
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "probe": self.probe.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(state, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)

    def resume(self, file: Path) -> bool:
        """Go on from a saved run of the same recipe; False if there is none."""
        if not file.exists():
            return False
        state = torch.load(file, weights_only=True)
        if state["recipe"] != dataclasses.asdict(self.recipe):
            return False
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.probe.load_state_dict(state["probe"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return True


def _yield_to_training(_: int) -> None:
    # A thread of the training that has to wait for a core holds up the others, which spin meanwhile.
    os.nice(20)


def _sample(recipe: Recipe) -> Tensor:
    """Some pictures, to whiten patches by. Shape: [N, 3, side, side]."""
    rng = random.Random(f"sample {recipe.seed}")
    scenes = (draw_scene(rng) for _ in range(recipe.sample))
    return torch.stack([to_pixels(render(s, draw_finish(rng, SIDES), rng), recipe.layout.side) for s in scenes])


def export(run: Run, folder: Path) -> None:
    """Write the checkpoint in the Hub's layout: float16 on disk, to be computed in float32."""
    layout = run.recipe.layout
    model = build_model(run.config)
    model.load_state_dict(run.model.state_dict())
    model.half().save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    side = {"height": layout.side, "width": layout.side}
    files: dict[str, dict[str, object]] = {
        "config.json": {**config, "architectures": ["LlavaForConditionalGeneration"], "dtype": "float32"},
        "generation_config.json": {
            "bos_token_id": config["text_config"]["bos_token_id"],
            "eos_token_id": config["text_config"]["eos_token_id"],
            "pad_token_id": config["text_config"]["pad_token_id"],
            "do_sample": False,
            "max_new_tokens": 96,
        },
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
            "do_convert_rgb": True, "do_resize": True, "size": side, "resample": 3, "do_center_crop": False,
            "crop_size": side, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        },
        "processor_config.json": {
            "processor_class": "LlavaProcessor", "image_token": "<image>", "patch_size": layout.patch,
            "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default",
        },
    }  # fmt: skip
    save_tokenizer(folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; its state lies beside it")
    parser.add_argument("--minutes", type=float, default=180.0, help="stop after this time and save what there is")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    for part in dataclasses.fields(Recipe):
        if part.name != "layout":
            parser.add_argument(f"--{part.name.replace('_', '-')}", type=type(part.default), default=part.default)
    return parser.parse_args()


def main() -> None:
    """Train, save at intervals, write the checkpoint."""
    started = time.monotonic()
    args = arguments()
    named = {part.name: vars(args)[part.name] for part in dataclasses.fields(Recipe) if part.name != "layout"}
    run = Run(Recipe(layout=Layout(), **named), args.threads)
    state = args.out.with_suffix(".state")
    state.parent.mkdir(parents=True, exist_ok=True)
    resumed = run.resume(state)
    size = sum(p.numel() for p in run.model.parameters())
    print(f"{size:,} parameters, {'resumed at' if resumed else 'from'} step {run.step}", flush=True)
    total, first, seen = run.recipe.looks + run.recipe.steps, run.step, []
    for batch in run.batches(args.workers):
        seen.append(run.learn(batch))
        spent = time.monotonic() - started
        if run.step % SHOW == 0:
            loss, right, patches, *named_right = torch.tensor(seen).mean(0).tolist()
            shares = " ".join(f"{share:.3f}" for share in named_right)
            pace = (run.step - first) * run.recipe.batch / spent
            print(
                f"step {run.step}/{total} {spent:.0f}s {pace:.0f} pictures/s"
                f" | answers: loss {loss:.4f} right {right:.4f} | patches: loss {patches:.4f} right {shares}",
                flush=True,
            )
            seen = []
        if spent > 60 * args.minutes:
            print(f"out of time at step {run.step} of {total}", flush=True)
            break
        if run.step % SAVE == 0:
            run.save(state)
    run.save(state)
    export(run, args.out)
    print(f"written to {args.out} after {time.monotonic() - started:.0f}s", flush=True)


if __name__ == "__main__":
    main()
