"""Sounds as pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from omniform.core.spoken import SpokenWord
from omniform.pipelines.drawing.spectrogram import HEIGHT, LEFT, MOST_ROWS, WIDTH, draw_spectrogram


def tone(seconds: float, hertz: float = 1000.0, rate: int = 16000) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)


def test_a_tone_is_a_line_where_its_frequency_is():
    """Loud where and when it sounds, dark elsewhere; the same however the sound is cut into blocks."""
    silence = torch.zeros(16000)
    sound = torch.cat((silence, tone(1.0), silence))
    drawn = draw_spectrogram([sound], 16000, 3.0)
    picture = np.asarray(drawn, dtype=int).sum(-1)[6 : 6 + HEIGHT, LEFT : LEFT + WIDTH]
    middle, before = picture[:, WIDTH // 2], picture[:, WIDTH // 6]
    at = HEIGHT * (1 - 15 / (15 + 27 * math.log(8) / math.log(6.4)))  # 1 kHz is 15 mel, 8 kHz the top
    assert abs(int(middle.argmax()) - at) <= 4 and middle.max() > 2.5 * before.max()
    assert drawn.tobytes() == draw_spectrogram(sound.split(777), 16000, 3.0).tobytes()


@pytest.mark.parametrize("seconds", [0.001, 0.02, 40.0])
@pytest.mark.parametrize("rate", [8000, 48000])
def test_any_length_and_rate(seconds, rate):
    drawn = draw_spectrogram([tone(seconds, 300.0, rate)], rate, seconds)
    assert drawn.width > WIDTH and drawn.height < 2000


def test_hours_stay_a_picture():
    """Rows are longer then, and what was said is running text, without a word lost to the eye's patience."""
    words = [SpokenWord(f" word{i}", i / 2, i / 2 + 0.4) for i in range(7200)]
    drawn = draw_spectrogram((torch.zeros(8000) for _ in range(3600)), 8000, 3600.0, words)
    assert MOST_ROWS * HEIGHT < drawn.height < 16000


def test_words_stand_below_where_they_are_said():
    plain = np.asarray(draw_spectrogram([tone(4.0)], 16000, 4.0))
    drawn = np.asarray(draw_spectrogram([tone(4.0)], 16000, 4.0, [SpokenWord(" red", 2.0, 2.5)]))
    new = drawn[6 + HEIGHT + 22 :].astype(int).sum(-1) > 300
    columns = np.flatnonzero(new.any(0))
    assert drawn.shape[0] > plain.shape[0] and abs(columns[0] - (LEFT + WIDTH // 2)) < 6
