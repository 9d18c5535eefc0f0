"""Train the bundled recogniser: ``python examples/commands/train_recogniser.py --out DIR``.

A Whisper learns from nothing what espeak-ng says. Beside the words it is taught, from the synthesiser's own marks,
which phoneme lies under every frame (by a layer that is thrown away), and where some heads of its cross-attention have
to look: that is learnt sooner than where words lie by themselves, and gives the words' times. The run is the same for
the same seed. It is saved at intervals and goes on from there when started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import BANDS, FRAMES, IGNORED, LONGEST, PHONES, Batch, Windows, Writer
from sounds import SECONDS
from tokens import END, QUIET, SPECIAL, save
from torch import Tensor, nn
from torch.nn import functional as F

from omniform import WhisperConfig, WhisperForConditionalGeneration

SHOW, SAVE = 25, 100
# Heads of the decoder's cross-attention (layer, head) that are told where to look: at the word that was read, or at the
# one that is to be written, as heads must whose looks are to give words their times.
OFFSETS = ((-4.0, -1.5, 1.5, 4.0), (-8.0, -3.0, 3.0, 8.0), (-14.0, -5.0, 5.0, 14.0))
"""Frames of 20 ms beside its own at which each head of the encoder's layers looks before it has learnt anything."""
SHARP = 1.8
BLUR = 1.5
"""Steps of 20 ms by which times may be wrong (the standard deviation)."""
HERE = ((0, 0), (1, 0), (1, 1))
AHEAD = ((0, 1), (1, 2))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that the outcome depends on.

    Attributes:
        rate: peak learning rate of Adam (tables, norms, biases, convolutions).
        matrix_rate: peak learning rate of Muon (the matrices inside the layers).
        phones: weight of the loss on phonemes beside that on words.
        looks: weight of the loss on where heads look.
    """

    width: int = 128
    heads: int = 4
    hidden: int = 512
    encoder_layers: int = 3
    decoder_layers: int = 2
    steps: int = 1600
    batch: int = 24
    rate: float = 3e-3
    matrix_rate: float = 0.02
    decay: float = 0.05
    warmup: int = 50
    phones: float = 0.5
    looks: float = 0.1
    seed: int = 1


def config_of(recipe: Recipe, writer: Writer) -> WhisperConfig:
    """The checkpoint's config."""
    return WhisperConfig(
        vocab_size=writer.tokenizer.get_vocab_size(), num_mel_bins=BANDS, d_model=recipe.width,
        encoder_layers=recipe.encoder_layers, decoder_layers=recipe.decoder_layers,
        encoder_attention_heads=recipe.heads, decoder_attention_heads=recipe.heads,
        encoder_ffn_dim=recipe.hidden, decoder_ffn_dim=recipe.hidden,
        max_source_positions=FRAMES, max_target_positions=LONGEST,
        pad_token_id=writer.end, bos_token_id=writer.end, eos_token_id=writer.end, decoder_start_token_id=writer.start,
        suppress_tokens=[], begin_suppress_tokens=[], median_filter_width=3,
    )  # fmt: skip


def blurred_times(writer: Writer) -> Tensor:
    """What is asked for where a token is to be written: itself, or of a time also those near it. Shape: [V, V]."""
    size = writer.tokenizer.get_vocab_size()
    asked = torch.eye(size)
    steps = torch.arange(size - writer.zero, dtype=torch.float32)
    near = torch.exp(-0.5 * ((steps[:, None] - steps) / BLUR).square())
    asked[writer.zero :, writer.zero :] = near / near.sum(1, keepdim=True)
    return asked


@torch.no_grad()
def look_beside(query: Tensor, key: Tensor, offsets: tuple[float, ...]) -> None:
    """Let every head begin by looking at frames at some distance, as a convolution does, which it need not learn then.

    With sines and cosines of one speed s in both, a query at t and a key at u score cos(s (u - t - offset)); many
    speeds together peak where u is t + offset.

    Args:
        query, key: weights. Shape: [D, D].
        offsets: of each head, in frames.
    """
    width = query.shape[0]
    size, half = width // len(offsets), width // 2
    speeds = torch.exp(torch.arange(size // 2) * -(torch.log(torch.tensor(10_000.0)) / (half - 1)))
    for head, offset in enumerate(offsets):
        for number, speed in enumerate(speeds.tolist()):
            row = head * size + 2 * number
            turn = torch.tensor(speed * offset)
            for side, (sine, cosine) in ((query, (0.0, 1.0)), (key, (float(turn.sin()), float(turn.cos())))):
                side[row : row + 2] *= 0.3
                side[row, number] += SHARP * cosine
                side[row, half + number] -= SHARP * sine
                side[row + 1, half + number] += SHARP * cosine
                side[row + 1, number] += SHARP * sine


class Run:
    """A training run: model, probe, optimizers, and how far they have come."""

    def __init__(self, recipe: Recipe) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(recipe.seed)
        self.recipe, self.step = recipe, 0
        self.writer = Writer()
        self.model = WhisperForConditionalGeneration(config_of(recipe, self.writer)).train()
        self.blurred = blurred_times(self.writer)
        self._begin()
        self.probe = nn.Linear(recipe.width, len(PHONES) + 1)
        matrices = [p for name, p in self.model.named_parameters() if ".layers." in name and p.dim() == 2]
        inside = {id(p) for p in matrices}
        trained = (*(p for p in self.model.parameters() if p.requires_grad), *self.probe.parameters())
        others = [p for p in trained if id(p) not in inside]
        self.optimizers: dict[torch.optim.Optimizer, float] = {
            torch.optim.Muon(matrices, lr=0.0, weight_decay=recipe.decay, momentum=0.95): recipe.matrix_rate,
            torch.optim.AdamW(others, lr=0.0, weight_decay=0.0, betas=(0.9, 0.98)): recipe.rate,
        }

    @torch.no_grad()
    def _begin(self) -> None:
        """First weights: sound is as loud as its positions from the start, layers add little."""
        for name, weight in self.model.named_parameters():
            if weight.dim() == 3:
                weight.normal_(0.0, 1.4 / weight[0].numel() ** 0.5)
            elif ".layers." in name and weight.dim() == 2:
                share = 0.2 if "out_proj" in name or "o_proj" in name or "fc2" in name or "down" in name else 0.7
                weight.normal_(0.0, share / weight.shape[1] ** 0.5)

        self._order_times()
        for layer, offsets in zip(self.model.model.encoder.layers, OFFSETS, strict=False):
            look_beside(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight, offsets)

    @torch.no_grad()
    def _order_times(self) -> None:
        """Times begin as the encoder's positions: near ones alike, and read off where a head looks."""
        table, places = self.model.model.decoder.embed_tokens.weight, self.model.model.encoder.embed_positions.weight
        places = torch.cat((places, places[-1:]))
        usual = table[: self.writer.end].norm(dim=1).mean()
        table[self.writer.zero :] = places * usual / places.norm(dim=1, keepdim=True)

    def learn(self, batch: Batch) -> list[float]:
        """One step. Returns loss and accuracy of words, of phonemes, and the loss on where heads look."""
        pace = min(1.0, (self.step + 1) / self.recipe.warmup) * max(0.01, 1 - self.step / self.recipe.steps)
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * pace
        with torch.autocast("cpu", torch.bfloat16):
            heard = self.model.model.encoder(input_features=batch.features)
            phones = self.probe(heard.last_hidden_state)
            out = self.model.model(encoder_outputs=heard, decoder_input_ids=batch.tokens, output_attentions=True)
            asked = batch.targets != IGNORED
            logits = self.model.lm_head(out.last_hidden_state[asked])
        targets = batch.targets[asked]
        words = F.cross_entropy(logits.float(), self.blurred[targets])
        named = F.cross_entropy(phones.flatten(0, 1).float(), batch.phones.flatten(), ignore_index=IGNORED)
        looks = self._looks(out.cross_attentions, batch)
        (words + self.recipe.phones * named + self.recipe.looks * looks).backward()
        for optimizer in self.optimizers:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        right = (logits.argmax(-1) == targets).float().mean()
        spoken = batch.phones > 0
        right_phones = (phones.argmax(-1) == batch.phones)[spoken].float().mean()
        return [float(x.detach()) for x in (words, right, named, right_phones, looks)]

    def _looks(self, weights: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """How far heads look beside the places that they are told, in nats."""
        total = torch.zeros(())
        for heads, places in ((HERE, batch.here), (AHEAD, batch.ahead)):
            rows = places.sum(-1) > 0
            told = places[rows]
            least = torch.xlogy(told, told).sum(-1)
            for layer, head in heads:
                seen = weights[layer][:, head][rows].float()
                total = total + (least - (told * (seen + 1e-6).log()).sum(-1)).mean()
        return total

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
        self._take(state)
        return True

    def begin(self, file: Path) -> None:
        """Begin with what another run has learnt, whose layers have the same sizes."""
        self._take(torch.load(file, weights_only=True))
        self._order_times()

    def _take(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.probe.load_state_dict(state["probe"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def export(run: Run, folder: Path) -> None:
    """Write the checkpoint in the Hub's layout: float16 on disk, to be computed in float32."""
    model = WhisperForConditionalGeneration(run.model.config)
    model.load_state_dict(run.model.state_dict())
    model.half().save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    w = run.writer
    never = [w.tokenizer.token_to_id(name) for name in SPECIAL if name not in (END, QUIET)]
    files: dict[str, dict[str, object]] = {
        "config.json": {**config, "dtype": "float32"},
        "generation_config.json": {
            "bos_token_id": w.end, "eos_token_id": w.end, "pad_token_id": w.end, "decoder_start_token_id": w.start,
            "prev_sot_token_id": w.previous, "no_timestamps_token_id": w.no_times, "is_multilingual": True,
            "lang_to_id": {"<|en|>": w.english}, "task_to_id": {"transcribe": w.transcribe}, "language": "en",
            "task": "transcribe",
            "suppress_tokens": sorted(never), "begin_suppress_tokens": [], "max_length": LONGEST,
            "return_timestamps": False, "alignment_heads": [list(AHEAD[-1])],
        },
        "preprocessor_config.json": {
            "feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor",
            "feature_size": BANDS, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400, "chunk_length": SECONDS,
            "n_samples": SECONDS * 16_000, "nb_max_frames": 2 * FRAMES, "padding_side": "right", "padding_value": 0.0,
            "return_attention_mask": False,
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save(folder)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; its state lies beside it")
    parser.add_argument("--minutes", type=float, default=120.0, help="stop after this time and save what there is")
    parser.add_argument("--begin", type=Path, help="the state of another run to begin with, instead of nothing")
    for part in dataclasses.fields(Recipe):
        parser.add_argument(f"--{part.name.replace('_', '-')}", type=type(part.default), default=part.default)
    return parser.parse_args()


def main() -> None:
    """Train, save at intervals, write the checkpoint."""
    started = time.monotonic()
    args = arguments()
    run = Run(Recipe(**{part.name: vars(args)[part.name] for part in dataclasses.fields(Recipe)}))
    state = args.out.with_suffix(".state")
    state.parent.mkdir(parents=True, exist_ok=True)
    resumed = run.resume(state)
    if args.begin and not resumed:
        run.begin(args.begin)
    print(
        f"{run.model.num_parameters():,} parameters, {'resumed at' if resumed else 'from'} step {run.step}", flush=True
    )
    windows = Windows(run.recipe.seed, run.recipe.batch)
    seen: list[list[float]] = []
    for number in range(run.step, run.recipe.steps):
        seen.append(run.learn(windows(number)))
        spent = time.monotonic() - started
        if run.step % SHOW == 0:
            words, right, named, phones, looks = torch.tensor(seen).mean(0).tolist()
            print(
                f"step {run.step}/{run.recipe.steps} {spent:.0f}s | words: loss {words:.4f} right {right:.4f}"
                f" | phonemes: loss {named:.4f} right {phones:.4f} | looks {looks:.4f}",
                flush=True,
            )
            seen = []
        if spent > 60 * args.minutes:
            print(f"out of time at step {run.step} of {run.recipe.steps}", flush=True)
            break
        if run.step % SAVE == 0:
            run.save(state)
            export(run, args.out)
    run.save(state)
    export(run, args.out)
    print(f"written to {args.out} after {time.monotonic() - started:.0f}s", flush=True)


if __name__ == "__main__":
    main()
