"""What stands around layers that write speech frame by frame (Tacotron 2, SpeechT5); distances in their encoder.

Sources: https://arxiv.org/abs/1712.05884 (the nets before and after), https://arxiv.org/abs/2110.07205 (SpeechT5),
https://arxiv.org/abs/1803.02155 (distances).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.convolutions import SoundConv1d
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.sinusoids import WeighedSines
from omniform.core.context import StepContext


class KeyDistances(nn.Embedding):
    """A vector for each distance between query and key, which is added to the key.

    Args:
        reach: from how many steps on all distances are alike.
        head_dim: width of a vector.
        scale: factor on the dot products.
    """

    def __init__(self, reach: int, head_dim: int, scale: float) -> None:
        super().__init__(2 * reach, head_dim)
        self.reach, self.scale = reach, scale

    def twin(self) -> KeyDistances:
        """Another with the very same vectors, for another layer."""
        other = type(self)(self.reach, self.embedding_dim, self.scale)
        other.weight = self.weight
        return other

    def forward(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Tensor:  # type: ignore[override]
        """What is added to the scores. Shape: [B, H, T, S]."""
        queries = torch.arange(q_BTHD.shape[1], device=q_BTHD.device)
        keys = torch.arange(k.shape[2], device=q_BTHD.device)
        distance = (queries[:, None] - keys).clamp(-self.reach, self.reach - 1) + self.reach
        of_all = (q_BTHD * self.scale).transpose(1, 2) @ self.weight.t()
        return of_all.gather(-1, distance.expand(*of_all.shape[:2], -1, -1))


class SpokenText(Embeddings):
    """Sines whose share is learned are added to token vectors, and all is normed.

    Attributes:
        sines: the sines.
        norm: the norm.
        places: how many positions there are.
        placed_dropout: on what the norm reads, in training.
    """

    sines: WeighedSines
    norm: nn.Module
    places: int
    placed_dropout: float

    @property
    def positions(self) -> int:
        return self.places

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        placed = F.dropout(embeds_BTD + self.sines(ctx.positions), self.placed_dropout, self.training)
        return super().forward(self.norm(placed), ctx)


class FramePrenet(Composed):
    """Frames of a spectrogram to vectors, with the voice that is to speak.

    Its dropout is always there, also in use: without it the decoder copies frames instead of reading the text.

    Args:
        layers: projections with a ReLU behind each.
        final_layer: to the width of the decoder.
        encode_positions: where frames stand.
        speaker_embeds_layer: puts the voice in.
        keep: probability that a number is kept, which is written down as that of dropping one.
        dropout: on placed vectors, in training.
        places: how many positions there are.
    """

    layers: nn.ModuleList
    final_layer: nn.Linear
    encode_positions: WeighedSines
    speaker_embeds_layer: nn.Linear
    keep: float
    dropout: float
    places: int

    @property
    def voice(self) -> int:
        """Width of a voice."""
        return self.speaker_embeds_layer.in_features - self.speaker_embeds_layer.out_features

    def forward(self, frames_BTM: Tensor, voice_BV: Tensor | None, length: int | None = None) -> Tensor:
        """Vectors of frames.

        Args:
            frames_BTM: Shape: [B, T, bands].
            voice_BV: Shape: [B or 1, V]; None for no voice.
            length: how many frames the rows have, of which these are the last; they alone, if None.

        Returns:
            Shape: [B, T, D].
        """
        new = frames_BTM.shape[1]
        rows = new if length is None else length
        x = frames_BTM
        for layer in self.layers:
            x = torch.relu(layer(x))
            # All rows lose the same numbers; they are drawn for whole rows, of which the last are looked at.
            luck = torch.bernoulli(x.new_empty(rows, x.shape[2]), p=self.keep)[rows - new :]
            x = torch.where(luck == 1, x, 0) * 1 / (1 - self.keep)
        places = torch.arange(rows - new, rows, device=x.device)
        x = F.dropout(self.final_layer(x) + self.encode_positions(places), self.dropout, self.training)
        if voice_BV is None:
            return x
        voice = F.normalize(voice_BV)[:, None].expand(x.shape[0], new, -1)
        heard: Tensor = torch.relu(self.speaker_embeds_layer(torch.cat((x, voice), dim=-1)))
        return heard


class PostnetLayer(Composed):
    """A convolution over frames, normed over the batch."""

    conv: nn.Conv1d
    batch_norm: nn.BatchNorm1d
    bent: bool
    dropout: float

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, C', T]."""
        x = self.batch_norm(self.conv(x_BCT))
        return F.dropout(torch.tanh(x) if self.bent else x, self.dropout, self.training)


class FramePostnet(Composed):
    """Hidden states to frames, several of each, and to whether speech ends there.

    Args:
        feat_out: to frames.
        prob_out: to the scores of an end.
        layers: what is added to the frames is made of them by these.
        bands: numbers of a frame.
    """

    feat_out: nn.Linear
    prob_out: nn.Linear
    layers: nn.ModuleList
    bands: int

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames before and after the convolutions, Shape: [B, T * R, bands], and scores of ends, [B, T * R]."""
        before = self.feat_out(hidden_BTD).view(hidden_BTD.shape[0], -1, self.bands)
        return before, self.postnet(before), self.prob_out(hidden_BTD).view(hidden_BTD.shape[0], -1)

    def postnet(self, frames_BTM: Tensor) -> Tensor:
        """Shape: [B, T, bands] in and out."""
        x = frames_BTM.transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return frames_BTM + x.transpose(1, 2)

    @classmethod
    def of(
        cls, dim: int, bands: int, each: int, *, layers: int, units: int, kernel: int, dropout: float
    ) -> FramePostnet:
        """One whose convolutions have so many units; each hidden state gives ``each`` frames."""
        widths = [bands, *[units] * (layers - 1), bands]
        return cls(
            feat_out=nn.Linear(dim, bands * each),
            prob_out=nn.Linear(dim, each),
            layers=nn.ModuleList(
                [
                    PostnetLayer(
                        conv=SoundConv1d(widths[i], widths[i + 1], kernel, padding=(kernel - 1) // 2, bias=False),
                        batch_norm=nn.BatchNorm1d(widths[i + 1]),
                        bent=i < layers - 1,
                        dropout=dropout,
                    )
                    for i in range(layers)
                ]
            ),
            bands=bands,
        )
