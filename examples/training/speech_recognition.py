"""A small Whisper learns from nothing to write down numbers that are spoken: every digit is a word of two vowels.

The voice is a synthesizer of formants (a buzz, and two resonances a vowel: D. Klatt, 1980) whose pitch and pace vary.
"""

from __future__ import annotations

import numpy as np
import torch
from common import arguments, options, tokenizer_of, trained

from omniform import (
    EvalPrediction,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    set_seed,
)

RATE, SECONDS = 16_000, 2
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
VOWELS = [(300, 2300), (450, 1900), (650, 1700), (750, 1200), (500, 900), (330, 800)]  # formants in Hz
SPOKEN = {word: (VOWELS[i // 5 + i % 2], VOWELS[(2 * i + 3) % 6]) for i, word in enumerate(WORDS)}


def vowel(formants: tuple[int, int], pitch: float, seconds: float) -> np.ndarray:
    """A buzz of harmonics, each as loud as it is near to a formant."""
    time = np.arange(int(RATE * seconds)) / RATE
    tones = [k * pitch for k in range(1, int(4000 / pitch))]
    loud = [sum(np.exp(-(((tone - f) / 120) ** 2)) for f in formants) for tone in tones]
    buzz = sum(a * np.sin(2 * np.pi * tone * time) for a, tone in zip(loud, tones, strict=True))
    return buzz * np.hanning(len(time))


def said(words: list[str], rng: np.random.Generator) -> np.ndarray:
    """Words in a voice and at a pace of their own, with a little noise."""
    pitch, pace = rng.uniform(90, 220), rng.uniform(0.1, 0.15)
    parts = [vowel(formants, pitch, pace) for word in words for formants in SPOKEN[word]]
    sound = np.concatenate([np.zeros(int(rng.uniform(0.02, 0.1) * RATE)), *parts])[: RATE * SECONDS]
    return (sound / np.abs(sound).max() + rng.normal(0, 0.01, len(sound))).astype(np.float32)


def errors(ours: list[str], theirs: list[str]) -> int:
    """How many words have to be put in, left out or replaced (Levenshtein)."""
    before = list(range(len(theirs) + 1))
    for i, word in enumerate(ours, 1):
        now = [i]
        for j, other in enumerate(theirs, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (word != other)))
        before = now
    return before[-1]


def main() -> None:
    given = options(__doc__, steps=300, examples=1200, held_out=100)
    set_seed(1)
    tokenizer = tokenizer_of([" ".join(WORDS)] * 50, vocab_size=400)
    extractor = WhisperFeatureExtractor(feature_size=40, chunk_length=SECONDS)

    def read(seed: int, count: int) -> list[dict]:
        rng = np.random.default_rng(seed)
        texts = [list(rng.choice(WORDS, rng.integers(2, 5))) for _ in range(count)]
        sounds = [said(words, rng) for words in texts]
        features = extractor(sounds, sampling_rate=RATE, return_tensors="pt")["input_features"]
        ids = [[*tokenizer(" ".join(words))["input_ids"], tokenizer.eos_token_id] for words in texts]
        return [{"input_features": f, "labels": i} for f, i in zip(features, ids, strict=True)]

    def collate(rows: list[dict]) -> dict:
        labels = [torch.tensor(row["labels"]) for row in rows]
        return {
            "input_features": torch.stack([row["input_features"] for row in rows]),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    def word_error_rate(prediction: EvalPrediction) -> dict[str, float]:
        written, wanted = (np.where(x == -100, tokenizer.pad_token_id, x) for x in prediction)
        texts = [tokenizer.batch_decode(x, skip_special_tokens=True) for x in (written, wanted)]
        pairs = [(ours.split(), theirs.split()) for ours, theirs in zip(*texts, strict=True)]
        return {"wer": sum(errors(*pair) for pair in pairs) / sum(len(theirs) for _, theirs in pairs)}

    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=40,
        d_model=96,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=192,
        decoder_ffn_dim=192,
        max_source_positions=SECONDS * 50,
        max_target_positions=32,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    trainer = Seq2SeqTrainer(
        model=WhisperForConditionalGeneration(config),
        args=arguments(given, Seq2SeqTrainingArguments, predict_with_generate=True, generation_max_length=24),
        train_dataset=read(1, given.examples),
        eval_dataset=read(2, given.held_out),
        data_collator=collate,
        processing_class=tokenizer,
        compute_metrics=word_error_rate,
    )
    trained(trainer, "wer")


if __name__ == "__main__":
    main()
