"""Encoders of stages that read spectrograms as pictures (HTS-AT, https://arxiv.org/abs/2202.00874; CLAP's fused one).

A spectrogram is long and narrow: it is cut in time, and its pieces are put below one another, which makes a square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.heads import Head
from omniform.architectures.stages import PatchMap, StagedEncoder, Told, picture_of, rows_of
from omniform.blocks.feature_fusion import FeatureFusion
from omniform.blocks.patches import Patching, Size
from omniform.blocks.windowed import FixedWindowsContext
from omniform.core.errors import InputError, brief
from omniform.core.host import is_all_false
from omniform.core.outputs import AudioEmbeddingOutput, BaseModelOutput


@dataclass(frozen=True, slots=True)
class Folding:
    """How spectrograms become squares.

    Attributes:
        side: of the square.
        bands: of a spectrogram.
    """

    side: int
    bands: int

    @property
    def pieces(self) -> int:
        """How many pieces lie below one another."""
        return self.side // self.bands

    @property
    def frames(self) -> int:
        """Frames of the spectrograms that are cut; shorter ones are stretched to as many."""
        return self.side * self.pieces

    @property
    def height(self) -> int:
        """Rows of a piece; spectrograms of fewer bands are stretched to as many."""
        return self.side // self.pieces

    def fold(self, x_BVTF: Tensor) -> Tensor:
        """Shape: [B, views, T, bands] to [B, views, side, side]."""
        if x_BVTF.shape[2:] != (self.frames, self.height):
            size = (self.frames, self.height)
            x_BVTF = F.interpolate(x_BVTF, size, mode="bicubic", align_corners=True)
        pieces: Tensor = x_BVTF.unflatten(2, (self.pieces, self.side))  # type: ignore[no-untyped-call]
        return pieces.transpose(3, 4).flatten(2, 3)

    def unfold(self, x_BCHW: Tensor) -> Tensor:
        """A map of a square with its pieces beside one another again. Shape: [B, C, H, W] to [B, C, rows, columns]."""
        rows = x_BCHW.shape[2] // self.pieces
        pieces: Tensor = x_BCHW.unflatten(2, (-1, rows))  # type: ignore[no-untyped-call]
        return pieces.transpose(2, 3).flatten(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedPatching(Patching):
    """Patches that may overlap, with a margin of zeros so that there is one for each step.

    Attributes:
        stride: from one patch to the next, in rows and in columns.
    """

    stride: Size

    @property
    def margin(self) -> Size:
        """Zeros around a picture, in rows and in columns."""
        down, across = ((patch - step) // 2 for patch, step in zip(self.patch_size, self.stride, strict=True))
        return down, across

    @property
    def fits(self) -> bool:
        """Whether there is a patch for each step, and no more."""
        sizes = zip(self.image_size, self.patch_size, self.stride, self.margin, strict=True)
        return all(m >= 0 and (n + 2 * m - patch) // step + 1 == n // step for n, patch, step, m in sizes)

    def grid_of(self, height: int, width: int) -> Size:
        return height // self.stride[0], width // self.stride[1]


class SoundPatches(PatchMap):
    """Cuts squares into patches and projects each to a vector.

    Args:
        patching: the sizes.
        dim: width of a vector.
    """

    def __init__(self, patching: PaddedPatching, dim: int) -> None:
        super().__init__(patching, dim)
        self.projection = nn.Conv2d(
            patching.channels, dim, patching.patch_size, stride=patching.stride, padding=patching.margin
        )

    @property
    def views(self) -> int | None:
        """How many spectrograms of a sound it reads; None for any number."""
        return self.patching.channels

    def forward(self, pixel_values: Tensor, longer_B: Tensor | None = None) -> Tensor:
        """Shape: [B, views, side, side] to [B, H, W, C]; ``longer_B`` is for those that look at several views."""
        vectors: Tensor = self.projection(pixel_values)
        return vectors.permute(0, 2, 3, 1)


class FusedPatches(SoundPatches):
    """One that reads a whole sound, made shorter, and, of sounds that are longer than the model hears, parts of it.

    Args:
        patching: the sizes.
        dim: width of a vector.
        inner: channels within the fusion.
    """

    def __init__(self, patching: PaddedPatching, dim: int, inner: int) -> None:
        super().__init__(patching, dim)
        (down, across), (height, width) = patching.stride, patching.patch_size
        self.parts = nn.Conv2d(1, dim, (height, 3 * width), stride=(down, 3 * across), padding=patching.margin)
        self.fusion = FeatureFusion(dim, inner)

    @property
    def views(self) -> int | None:
        return None

    def forward(self, pixel_values: Tensor, longer_B: Tensor | None = None) -> Tensor:
        """Patches of whole sounds and, for the rows that are longer, of their parts.

        Args:
            pixel_values: Shape: [B, views, side, side]; the whole sound first.
            longer_B: Shape: [B], true for sounds whose parts count too; None where none do.

        Returns:
            Shape: [B, H, W, C].
        """
        whole: Tensor = self.projection(pixel_values[:, :1])
        if longer_B is not None and pixel_values.shape[1] > 1:
            parts = self._beside(pixel_values[:, 1:], whole.shape[3])
            fused = self.fusion(whole, parts, longer_B)
            whole = torch.where(longer_B[:, None, None, None], fused, whole)
        return whole.permute(0, 2, 3, 1)

    def _beside(self, parts_BVHW: Tensor, columns: int) -> Tensor:
        """The parts' maps, a third as wide each, beside one another. Shape: to [B, C, H, columns]."""
        rows, views = parts_BVHW.shape[:2]
        maps = self.parts(parts_BVHW.flatten(0, 1)[:, None]).unflatten(0, (rows, views))
        beside = maps.permute(0, 2, 3, 1, 4).flatten(3)
        return F.pad(beside, (0, columns - beside.shape[3]))


class StagedSoundEncoder(StagedEncoder):
    """A transformer of stages over the patches of a folded spectrogram.

    Args:
        batch_norm: of a spectrogram's bands.
        folding: how it becomes a square.
    """

    main_input = "input_features"

    patches: SoundPatches
    batch_norm: nn.BatchNorm2d
    folding: Folding

    def arrive(self, inputs: dict[str, object]) -> None:
        longer, features = inputs.get("is_longer"), inputs.get("input_features")
        if self.patches.views is not None or not isinstance(features, Tensor):
            return
        rows = features.shape[0] if features.dim() else 0
        if not isinstance(longer, Tensor) or longer.shape not in ((rows, 1), (rows,)):
            raise InputError(
                "a model that fuses views must know which sounds are longer than it hears",
                where="is_longer",
                expected=f"a tensor of shape [{rows}, 1]",
                found=f"shape {list(longer.shape)}" if isinstance(longer, Tensor) else brief(longer),
                remedy="The checkpoint's feature extractor makes it.",
            )
        if is_all_false(longer):
            inputs["is_longer"] = None
        elif features.dim() == 4 and features.shape[1] == 1:
            raise InputError(
                "of sounds that are longer than the model hears it reads several views",
                where="input_features",
                expected="shape [batch, views, frames, bands], at least 2 views",
                found=f"shape {list(features.shape)}",
                remedy='Make them with truncation="fusion".',
            )

    def forward(  # type: ignore[override]
        self,
        input_features: Tensor | None = None,
        is_longer: Tensor | None = None,
        **given: Unpack[Told],
    ) -> BaseModelOutput:
        """Maps of sounds, and one vector for each.

        Args:
            input_features: Shape: [B, views, frames, bands]; the first view is the whole sound.
            is_longer: Shape: [B, 1], whether a sound is longer than the model hears; for models that fuse views.
            given: see :class:`Told`.

        Returns:
            ``last_hidden_state``: Shape: [B, C, rows, columns], pieces of a sound beside one another; its mean;
            ``hidden_states``: what enters the first stage and what stages hand on, Shape: [B, C, H, W] each.

        Raises:
            InputError: no spectrograms, or spectrograms that do not fit the model; no word of which are longer.
        """
        features = self.checked(input_features).to(self.batch_norm.weight.dtype)
        normed = self.batch_norm(features.transpose(1, 3)).transpose(1, 3)
        fused = self.patches.views is None and is_longer is not None
        longer = (is_longer == 1).flatten().to(features.device) if fused and is_longer is not None else None
        x_BHWC: Tensor = self.patch_norm(self.patches(self.folding.fold(normed), longer))
        ctx = self.step(rows_of(x_BHWC), given)
        if given.get("always_partition"):
            ctx = FixedWindowsContext.of(ctx)
        before = bool(given.get("output_hidden_states_before_downsampling"))
        ctx.taps.hidden(picture_of(x_BHWC))
        for passage in self.passages(x_BHWC, ctx):
            x_BHWC = passage[1]
            ctx.taps.hidden(picture_of(passage[0] if before else x_BHWC))
        last = x_BHWC if self.norm is None else self.norm(x_BHWC)
        unfolded = self.folding.unfold(picture_of(last))
        return BaseModelOutput(last_hidden_state=unfolded, pooler_output=unfolded.mean((2, 3)), **ctx.taps.noted())

    def checked(self, input_features: Tensor | None) -> Tensor:
        """Spectrograms, if they fit the model."""
        folding, views = self.folding, self.patches.views
        told = isinstance(input_features, Tensor)
        if input_features is not None and told and input_features.dim() == 4 and input_features.is_floating_point():
            rows, found, frames, bands = input_features.shape
            whole = rows > 0 and found > 0 and 0 < frames <= folding.frames and bands == folding.bands
            if whole and views in (None, found):
                return input_features
        shape = f"[batch, {'views' if views is None else views}, frames, {folding.bands}]"
        raise InputError(
            "the spectrograms do not fit the model",
            where="input_features",
            expected=f"floating-point numbers of shape {shape}, at most {folding.frames} frames",
            found=f"{input_features.dtype} of shape {list(input_features.shape)}"
            if isinstance(input_features, Tensor)
            else brief(input_features),
            remedy="Make them with the checkpoint's own feature extractor.",
        )


class SoundEmbedder(Head):
    """An encoder of sounds and its projection into the shared space."""

    main_input = "input_features"

    projection: nn.Module

    def forward(self, *args: Tensor, **inputs: object) -> AudioEmbeddingOutput:
        """``audio_embeds``, not normalised; see :meth:`StagedSoundEncoder.forward` for the inputs."""
        out = self.model(*args, **inputs)
        assert isinstance(out, BaseModelOutput) and out.pooler_output is not None
        return AudioEmbeddingOutput(
            audio_embeds=self.projection(out.pooler_output), last_hidden_state=out.last_hidden_state, **out.noted()
        )
