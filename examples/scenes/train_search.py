"""Train the bundled search checkpoint: ``python examples/scenes/train_search.py --out DIR``.

A CLIP learns which caption belongs to which drawn scene. Its vision tower begins as the one of the bundled LLaVA, which
knows shapes, and gets two layers more; its text tower begins from nothing. Three lessons at once:

- CLIP's own: among the pictures of a batch the caption's, and among its captions the picture's;
- short queries ("a red circle"): all pictures of which they are true before all others, pictures without shapes too;
- one small reader, dropped afterwards, tells from a picture's vector, and from its caption's, what lies in which cell:
  both towers so find one language much sooner.

The run is the same for the same seed. It is saved at intervals and goes on from there when started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from captions import Caption, caption, query, words
from data import IGNORED, to_pixels
from draw import BACKGROUNDS, SHAPES, Scene
from measure_search import recalls, unseen
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from wider import FILLS, GROUNDS, MOST, draw_other, draw_wider, picture

from omniform import AutoModelForImageTextToText, CLIPConfig, CLIPModel
from omniform.hub.bundled import bundled_checkpoint

PAD, BOS, END = SPECIAL = ("<pad>", "<s>", "<end>")
SIDES = (72, 224)
SIDE, PATCH, TEXT = 96, 16, 96
SHOW, SAVE, CHECK = 50, 250, 250
CELLS, SIZES = 9, ("small", "large")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that the outcome depends on.

    Attributes:
        width: of both towers.
        looking, reading: layers of the vision tower and of the text tower.
        shared: numbers in a vector of the space in which pictures and texts meet.
        others: pictures without shapes in every batch.
        rate: peak learning rate of Adam (tables, norms, biases, projections).
        matrix_rate: peak learning rate of Muon (the matrices inside the layers).
        begun: the part of it for layers that know something already.
        queries, cells: weights of the second and of the third lesson.
        asked: short queries about each scene.
        few: shapes in the first scenes at most; more in later ones.
        strong: scenes on backgrounds of any colour, and shapes as large as may be; see ``wider.draw_wider``.
    """

    width: int = 128
    looking: int = 6
    reading: int = 4
    shared: int = 256
    steps: int = 2400
    batch: int = 128
    others: int = 6
    rate: float = 2e-3
    matrix_rate: float = 0.02
    begun: float = 0.3
    decay: float = 0.05
    queries: float = 0.5
    cells: float = 0.5
    asked: int = 1
    few: int = 2
    strong: float = 0.0
    warmup: int = 40
    seed: int = 0

    @property
    def grounds(self) -> tuple[str, ...]:
        """The backgrounds that scenes have."""
        return tuple(GROUNDS if self.strong else BACKGROUNDS)


def tokenizer() -> Tokenizer:
    """Lower case, whole words or else bytes; every text ends with the end token, whose vector stands for it."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=True)
    known: set[str] = set()
    for text in (*words(), *"?!.,:;'()-\""):
        plain = re.sub(r"\{\w+\}", " ", text).lower()
        known.update(token for token, _ in split.pre_tokenize_str(plain))
        known.update(token for token, _ in split.pre_tokenize_str("x" + plain) if not token.isalnum())
    singles = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Id 2 as the end would make CLIP take the highest id for it, as its oldest files ask.
    tokens = [
        PAD,
        BOS,
        "<unused>",
        END,
        *singles,
        *sorted(token for token in known if len(token) > 1 and token != "Ġx"),
    ]
    made = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=[], ignore_merges=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    made.pre_tokenizer = split
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {END}", pair=f"{BOS} $A $B {END}", special_tokens=[(BOS, 1), (END, 3)]
    )
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made


def model_config(recipe: Recipe, vocabulary: int) -> CLIPConfig:
    """A small CLIP."""
    tower = {
        "hidden_size": recipe.width,
        "intermediate_size": 4 * recipe.width,
        "num_attention_heads": recipe.width // 32,
    }
    return CLIPConfig(
        projection_dim=recipe.shared,
        vision_config={
            **tower, "num_hidden_layers": recipe.looking, "image_size": SIDE, "patch_size": PATCH,
            "projection_dim": recipe.shared,
        },
        text_config={
            **tower, "num_hidden_layers": recipe.reading, "vocab_size": -(-vocabulary // 8) * 8,
            "max_position_embeddings": TEXT, "projection_dim": recipe.shared,
            "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0,
        },
    )  # fmt: skip


@torch.no_grad()
def initialise(model: CLIPModel, recipe: Recipe) -> set[str]:
    """First weights; the names of those that the bundled LLaVA's tower gave."""
    generator = torch.Generator().manual_seed(recipe.seed)
    for name, tensor in model.named_parameters():
        depth = recipe.looking if name.startswith("vision") else recipe.reading
        if name.endswith("bias"):
            tensor.zero_()
        elif "norm" in name:
            tensor.fill_(1.0)
        elif name.endswith("embed_tokens.weight"):
            tensor.normal_(0, 0.5, generator=generator)
        elif name.endswith("embed_positions.weight"):
            tensor.normal_(0, 0.1, generator=generator)
        elif tensor.dim() > 1:
            # The layers that are new to the tower begin as good as absent.
            quiet = 0.3 if name.startswith("vision") else 1.0
            branch = name.endswith(("o_proj.weight", "fc2.weight"))
            tensor.normal_(
                0, tensor[0].numel() ** -0.5 * (quiet / math.sqrt(2 * depth) if branch else 1), generator=generator
            )
    model.logit_scale.fill_(math.log(20))
    own, begun = dict(model.named_parameters()), set()
    for name, tensor in _tower().items():
        own[name].copy_(tensor.float())
        begun.add(name)
    return begun


def _tower() -> dict[str, Tensor]:
    """The tensors of the bundled LLaVA's vision tower, under the names that they have here."""
    llava = AutoModelForImageTextToText.from_pretrained(str(bundled_checkpoint("image")))
    start = "model.vision_tower."
    return {"vision_model." + n.removeprefix(start): t for n, t in llava.named_parameters() if n.startswith(start)}


class Reader(nn.Module):
    """Tells from a vector what lies in each of nine cells and the background: the third lesson."""

    def __init__(self, shared: int, grounds: int) -> None:
        super().__init__()
        self.sizes = (len(SHAPES) + 1, len(FILLS), len(SIZES))
        self.cells = nn.Linear(shared, CELLS * sum(self.sizes))
        self.ground = nn.Linear(shared, grounds)

    def forward(self, vectors: Tensor, cells: Tensor, grounds: Tensor) -> Tensor:
        """The loss.

        Args:
            vectors: of length one. Shape: [B, E].
            cells: shape (0 for none), colour and size of each cell. Shape: [B, 9, 3].
            grounds: Shape: [B].
        """
        vectors = 16 * vectors
        parts = self.cells(vectors).float().unflatten(-1, (CELLS, -1)).split(self.sizes, dim=-1)
        loss = F.cross_entropy(self.ground(vectors).float(), grounds, ignore_index=IGNORED)
        for logits, target in zip(parts, cells.unbind(-1), strict=True):
            loss = loss + F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORED)
        return loss


@dataclass(frozen=True, slots=True)
class Batch:
    """B scenes; the last of the N pictures are without shapes.

    Attributes:
        pixel_values: Shape: [N, 3, side, side].
        captions: Shape: [B, T].
        queries: A of them for each scene. Shape: [A * B, Q].
        fits: 1 where a query is true of a picture, 0 where not, -1 where nobody knows. Shape: [A * B, N].
        cells: Shape: [B, 9, 3].
        grounds: Shape: [B].
        sized: whose captions tell sizes. Shape: [B].
        grounded: whose captions tell the background. Shape: [B].
    """

    pixel_values: Tensor
    captions: Tensor
    queries: Tensor
    fits: Tensor
    cells: Tensor
    grounds: Tensor
    sized: Tensor
    grounded: Tensor


def cells_of(scene: Scene) -> list[list[int]]:
    """Shape, colour and size of what lies in each cell."""
    cells = [[0, IGNORED, IGNORED] for _ in range(CELLS)]
    for item in scene.items:
        size = SIZES.index(item.size) if item.size in SIZES else IGNORED
        cells[item.cell] = [SHAPES.index(item.shape) + 1, tuple(FILLS).index(item.colour), size]
    return cells


class Pairs(Dataset[Batch]):
    """Batch number i of a training run: the same for the same seed, whoever draws it and in whatever order."""

    def __init__(self, recipe: Recipe, first: int = 0) -> None:
        self.recipe, self.first = recipe, first
        self.tokenizer = tokenizer()

    def __len__(self) -> int:
        return self.recipe.steps - self.first

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids, zeros at the right. Shape: [B, T]."""
        rows = [one.ids for one in self.tokenizer.encode_batch(list(texts))]
        longest = min(TEXT, max(map(len, rows)))
        return torch.tensor([row[:longest] + [0] * (longest - len(row)) for row in rows])

    def __getitem__(self, index: int) -> Batch:
        r, number = self.recipe, index + self.first
        rng = random.Random(f"search {r.seed} {number}")
        most = min(MOST, r.few + 8 * number // r.steps * 2)
        scenes = [draw_wider(rng, most, strong=r.strong) for _ in range(r.batch)]
        pictures = [picture(rng, scene, SIDES) for scene in scenes] + [draw_other(rng, SIDE) for _ in range(r.others)]
        said: list[Caption] = [caption(rng, scene) for scene in scenes]
        asked = [query(rng, scene) for _ in range(r.asked) for scene in scenes]
        truth = {True: 1, False: 0, None: -1}
        return Batch(
            torch.stack([to_pixels(image, SIDE) for image in pictures]),
            self.ids([one.text for one in said]),
            self.ids([one.text for one in asked]),
            torch.tensor([[truth[one.fits(scene)] for scene in scenes] + [0] * r.others for one in asked]),
            torch.tensor([cells_of(scene) for scene in scenes]),
            torch.tensor([r.grounds.index(scene.background) for scene in scenes]),
            torch.tensor([one.sized for one in said]),
            torch.tensor([one.grounded for one in said]),
        )


class Run:
    """A training run: model, reader, optimizers, and how far they have come."""

    def __init__(self, recipe: Recipe, begin: Path | None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.step = recipe, 0
        self.config = model_config(recipe, tokenizer().get_vocab_size())
        # With bfloat16 on a CPU, attention that is written out trains twice as fast as the fused kernel.
        self.model = CLIPModel._from_config(self.config, attn_implementation="eager").train()
        begun = initialise(self.model, recipe)
        if begin is not None:
            self.model.load_state_dict(CLIPModel.from_pretrained(begin, dtype="float32").state_dict())
        self.reader = Reader(recipe.shared, len(recipe.grounds))
        named = dict(self.model.named_parameters())
        matrices = {n for n, p in named.items() if ".layers." in n and p.dim() == 2}
        groups = [{"params": [named[n] for n in names], "part": part} for names, part in (
            (sorted(matrices - begun), 1.0), (sorted(matrices & begun), recipe.begun))]  # fmt: skip
        rest = [p for n, p in named.items() if n not in matrices]
        others = [{"params": [*rest, *self.reader.parameters()], "part": 1.0}]
        self.optimizers: dict[torch.optim.Optimizer, float] = {
            torch.optim.Muon(groups, lr=0.0, weight_decay=recipe.decay, momentum=0.95): recipe.matrix_rate,
            torch.optim.AdamW(others, lr=0.0, weight_decay=0.0, betas=(0.9, 0.98)): recipe.rate,
        }

    def learn(self, batch: Batch) -> list[float]:
        """One step. Returns the losses of the three lessons, and how often the best caption was right."""
        pace = min(1.0, (self.step + 1) / self.recipe.warmup) * max(0.01, 1 - self.step / self.recipe.steps)
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * pace * group["part"]
        count = len(batch.captions)
        with torch.autocast("cpu", torch.bfloat16):
            image = _unit(self.model.get_image_features(batch.pixel_values).pooler_output)
            text = _unit(self.model.get_text_features(batch.captions).pooler_output)
            asked = _unit(self.model.get_text_features(batch.queries).pooler_output)
        scale = self.model.logit_scale.exp()
        logits = scale * text @ image.T
        own = torch.arange(count)
        pairs = (F.cross_entropy(logits, own) + F.cross_entropy(logits[:, :count].T, own)) / 2
        asking = _spread(scale * asked @ image.T, batch.fits)
        sizes = torch.where(batch.sized[:, None], batch.cells[..., 2], IGNORED)
        told = torch.cat([batch.cells[..., :2], sizes[..., None]], -1)
        grounds = torch.where(batch.grounded, batch.grounds, IGNORED)
        cells = self.reader(image[:count], batch.cells, batch.grounds) + self.reader(text, told, grounds)
        (pairs + self.recipe.queries * asking + self.recipe.cells * cells).backward()
        for optimizer in self.optimizers:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
        self.step += 1
        right = (logits[:, :count].argmax(0) == own).float().mean().item()
        return [pairs.item(), asking.item(), cells.item(), right]

    def save(self, file: Path) -> None:
        """Write all that is needed to go on."""
        state = {
            "recipe": dataclasses.asdict(self.recipe), "step": self.step, "model": self.model.state_dict(),
            "reader": self.reader.state_dict(), "optimizers": [one.state_dict() for one in self.optimizers],
        }  # fmt: skip
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
        self.reader.load_state_dict(state["reader"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return True

    @torch.no_grad()
    def check(self, pixels: Tensor, ids: Tensor) -> dict[str, float]:
        """Recalls on held-out pairs."""
        self.model.eval()
        image = torch.cat([self.model.get_image_features(some).pooler_output for some in pixels.split(100)])
        text = torch.cat([self.model.get_text_features(some).pooler_output for some in ids.split(100)])
        self.model.train()
        return recalls(_unit(image) @ _unit(text).T)


def _unit(x_BE: Tensor) -> Tensor:
    return F.normalize(x_BE.float(), dim=-1)


def _spread(logits: Tensor, fits: Tensor) -> Tensor:
    """All that fits before all that does not: every fitting picture against those that do not fit."""
    wrong = logits.masked_fill(fits != 0, -math.inf).logsumexp(-1, keepdim=True)
    right = F.softplus(wrong - logits) * (fits == 1)
    return (right.sum(-1) / (fits == 1).sum(-1).clamp(min=1)).mean()


def export(run: Run, folder: Path) -> None:
    """Write the checkpoint in the Hub's layout: bfloat16 on disk, to be computed in float32."""
    model = CLIPModel(run.config)
    model.load_state_dict(run.model.state_dict())
    model.to(torch.bfloat16).save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    side = {"height": SIDE, "width": SIDE}
    named = {"bos_token": BOS, "eos_token": END, "pad_token": PAD}
    files: dict[str, dict[str, object]] = {
        "config.json": {**config, "dtype": "float32"},
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor",
            "do_convert_rgb": True, "do_resize": True, "size": side, "resample": 3, "do_center_crop": False,
            "crop_size": side, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        },
        "tokenizer_config.json": {
            **named, "tokenizer_class": "PreTrainedTokenizerFast", "processor_class": "CLIPProcessor",
            "model_max_length": TEXT, "padding_side": "right", "clean_up_tokenization_spaces": False,
        },
        "special_tokens_map.json": dict(named),
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(tokenizer().to_str(pretty=True) + "\n", encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; its state lies beside it")
    parser.add_argument("--begin", type=Path, help="a checkpoint to go on from, instead of from nothing")
    parser.add_argument("--stop", type=int, help="stop after so many steps, as if the machine had")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    for part in dataclasses.fields(Recipe):
        parser.add_argument(f"--{part.name.replace('_', '-')}", type=type(part.default), default=part.default)
    return parser.parse_args()


def main() -> None:
    """Train, save at intervals, write the checkpoint."""
    started = time.monotonic()
    args = arguments()
    torch.set_num_threads(1)
    recipe = Recipe(**{part.name: vars(args)[part.name] for part in dataclasses.fields(Recipe)})
    run = Run(recipe, args.begin)
    state = args.out.with_suffix(".state")
    state.parent.mkdir(parents=True, exist_ok=True)
    resumed = run.resume(state)
    size = sum(p.numel() for p in run.model.parameters())
    print(f"{size:,} parameters, {'resumed at' if resumed else 'from'} step {run.step}", flush=True)
    data = Pairs(run.recipe, run.step)
    held = unseen(500, "held out")
    pixels = torch.stack([to_pixels(image, SIDE) for image in held.pictures])
    ids = data.ids(held.captions)
    first, seen = run.step, []
    for batch in DataLoader(
        data, batch_size=None, num_workers=args.workers, prefetch_factor=6 if args.workers else None
    ):
        seen.append(run.learn(batch))
        if run.step % SHOW == 0:
            pairs, asking, cells, right = torch.tensor(seen).mean(0).tolist()
            spent = time.monotonic() - started
            pace = (run.step - first) * run.recipe.batch / spent
            print(
                f"step {run.step}/{run.recipe.steps} {spent:.0f}s {pace:.0f} pairs/s"
                f" | pairs {pairs:.3f} right {right:.3f}"
                f" | queries {asking:.3f} | cells {cells:.3f} | scale {run.model.logit_scale.exp():.1f}",
                flush=True,
            )
            seen = []
        if run.step % CHECK == 0:
            print("  of 500 unseen:", {k: round(v, 3) for k, v in run.check(pixels, ids).items()}, flush=True)
        if run.step % SAVE == 0:
            run.save(state)
            export(run, args.out)
        if run.step == args.stop:
            break
    run.save(state)
    export(run, args.out)
    print(f"written to {args.out} after {time.monotonic() - started:.0f}s", flush=True)


if __name__ == "__main__":
    main()
