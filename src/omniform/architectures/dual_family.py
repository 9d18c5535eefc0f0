"""Pictures and texts in one space: the towers of CLIP's line, what is built of them, and where their weights live."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from omniform.architectures.dual_encoder import FirstOf, HighestId, ImageEmbedder, TextEmbedder, TextTower
from omniform.architectures.tower import Tower
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.embeddings import PositionedEmbeddings, PositionTable
from omniform.blocks.patches import ClassToken, GridPositions, Patching, PatchStem, read_patching
from omniform.blocks.poolers import NormPooler
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full
from omniform.weights.init import normal
from omniform.weights.keymap import KeyMap


def clip_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Each matrix by its width, and what writes onto the residual stream by the number of layers (CLIP's own code)."""
    name = "vision_config" if path.startswith(("vision_model", "visual_projection", "classifier", "model.")) else None
    part = config if config.get("vision_config") is None else config.get(name or "text_config")
    assert isinstance(part, ModelConfig)
    module, _, tensor = path.rpartition(".")
    last = module.rpartition(".")[2]
    if tensor != "weight":
        return None
    factor, dim = (float(cast(float, part.get(key, 1.0))) for key in ("initializer_factor", "hidden_size"))
    deep = (2 * cast(int, part.num_hidden_layers)) ** -0.5
    if (last in ("patching", "projection", "positions") and "patches" in path + module) or last == "positions":
        return part.common.initializer_range * factor
    stds = {"embed_tokens": 0.02, "embed_positions": 0.02, "fc1": (2 * dim) ** -0.5, "fc2": dim**-0.5 * deep}
    stds |= dict.fromkeys(("q_proj", "k_proj", "v_proj"), dim**-0.5 * deep)
    wide = ("o_proj", "class_token", "projection", "text_projection", "visual_projection", "classifier")
    stds |= dict.fromkeys(wide, dim**-0.5)
    return stds[last] * factor if last in stds else None


def siglip_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Tables by their width, attention and feed-forwards by Glorot's rule, every other matrix by its inputs (SigLIP's
    own code)."""
    sides = ("vision_config", "text_config") if config.get("vision_config") is not None else ()
    picture = path.startswith(("vision_model", "classifier", "model."))
    part = config.get(sides[0 if picture else 1]) if sides else config
    assert isinstance(part, ModelConfig)
    width = 1 / math.sqrt(cast(int, part.hidden_size))
    module, _, tensor = path.rpartition(".")
    last = module.rpartition(".")[2]
    if tensor == "bias" and last in ("fc1", "fc2"):
        return normal(1e-6)
    if tensor != "weight":
        return None
    if last in ("embed_tokens", "embed_positions", "positions"):
        return width
    if last == "classifier":
        return width * float(cast(float, config.get("initializer_factor", 1.0)))
    if last in ("fc1", "fc2") or (".self_attn." in path and last.endswith("_proj")):
        return nn.init.xavier_uniform_
    if "pooler." in path and last in ("q_proj", "k_proj", "v_proj"):
        return glorot_of_three
    return by_inputs if last in ("projection", "head", "o_proj") else None


def glorot_of_three(x: Tensor) -> None:
    """Glorot's rule for one of three square matrices that are one."""
    nn.init.xavier_uniform_(x, gain=2**-0.5)


def by_inputs(x: Tensor) -> None:
    """Signals keep their variance (LeCun); Flax makes up for the tails that it cuts off, and so the ecosystem does,
    which cuts off none."""
    nn.init.normal_(x, std=x[0].numel() ** -0.5 / 0.87962566103423978)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSide:
    """What the text tower computes."""

    tower: Tower
    projection: int
    vocab_size: int
    max_positions: int
    eos_token_id: int

    @classmethod
    def read(cls, r: ConfigReader) -> TextSide:
        """Read the text tower's config."""
        r.inert("initializer_factor")
        for name, default in (("pad_token_id", 1), ("bos_token_id", 49406)):
            r.maybe_integer(name, default, least=-1)
        return cls(
            tower=Tower.read(r, dim=512, hidden=2048, heads=8, act="quick_gelu", eps=1e-5),
            projection=r.integer("projection_dim", 512),
            vocab_size=r.integer("vocab_size", 49408),
            max_positions=r.integer("max_position_embeddings", 77),
            eos_token_id=r.integer("eos_token_id", 49407, least=0),
        )

    def model(self) -> TextTower:
        """The text tower. The end of a text stands for it."""
        # Old releases wrote 2 by mistake, and took the highest id, the vocabulary's last token, for the end.
        end = HighestId() if self.eos_token_id == 2 else FirstOf((self.eos_token_id,))
        return TextTower(
            embed_tokens=nn.Embedding(self.vocab_size, self.tower.dim),
            embeddings=PositionedEmbeddings(embed_positions=PositionTable(self.max_positions, self.tower.dim)),
            layers=self.tower.stack(Causal()),
            norm=self.tower.norm(),
            pooler=end,
            max_positions=self.max_positions,
        )

    def embedder(self, _: Common) -> TextEmbedder:
        """The text tower and its projection."""
        return TextEmbedder(model=self.model(), projection=self.tower.into(self.projection))


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the vision tower computes."""

    tower: Tower
    projection: int
    patching: Patching

    @classmethod
    def read(cls, r: ConfigReader) -> VisionSide:
        """Read the vision tower's config."""
        r.inert("initializer_factor")
        return cls(
            tower=Tower.read(r, dim=768, hidden=3072, heads=12, act="quick_gelu", eps=1e-5),
            projection=r.integer("projection_dim", 512),
            patching=read_patching(r, patch_size=32),
        )

    def model(self, kind: type[VisionEncoder] = VisionEncoder) -> VisionEncoder:
        """The vision tower.

        The norm before the layers acts on patches, the one after them on the pooled vector alone.
        """
        dim = self.tower.dim
        return kind(
            patches=PatchStem(self.patching, dim, bias=False),
            positions=GridPositions(self.patching.grid, dim, before=1),
            class_token=ClassToken(dim),
            pre_norm=self.tower.norm(),
            layers=self.tower.stack(Full()),
            pooler=NormPooler(norm=self.tower.norm()),
        )

    def embedder(self, _: Common) -> ImageEmbedder:
        """The vision tower and its projection."""
        return ImageEmbedder(model=self.model(), projection=self.tower.into(self.projection))


LAYERS = {
    "layers": "encoder.layers",
    "layers.{i}.input_layernorm": "encoder.layers.{i}.layer_norm1",
    "layers.{i}.self_attn.o_proj": "encoder.layers.{i}.self_attn.out_proj",
    "layers.{i}.post_attention_layernorm": "encoder.layers.{i}.layer_norm2",
}
TEXT_KEYS = KeyMap(
    {
        **LAYERS,
        "embed_tokens": "embeddings.token_embedding",
        "embeddings.embed_positions": "embeddings.position_embedding",
        "norm": "final_layer_norm",
    },
    aliases=((r"^text_model\.(\w)", r"\1"),),
)
VISION_KEYS = KeyMap(
    {
        **LAYERS,
        "class_token.weight": "embeddings.class_embedding",
        "patches.projection": "embeddings.patch_embedding",
        "positions": "embeddings.position_embedding",
        "pre_norm": "pre_layrnorm",  # sic
        "pooler.norm": "post_layernorm",
    },
    aliases=((r"^vision_model\.(\w)", r"\1"),),
)
"""Where CLIP's line keeps a vision tower."""

BOTH_KEYS = TEXT_KEYS.under("text_model", "text_model") | VISION_KEYS.under("vision_model", "vision_model")

# A tower can be loaded from a file that holds both.
NO_TEXT = KeyMap({}, ignored=(r"^(text_model|text_projection)\.", r"^logit_scale$"))
NO_VISION = KeyMap({}, ignored=(r"^(vision_model|visual_projection)\.", r"^logit_scale$"))
NO_PROJECTION = KeyMap({}, ignored=(r"^(text|visual)_projection\.",))
"""Of a family whose towers never stand alone with their own projection."""
