"""A small T5 learns from nothing to tell a match in one sentence: who won, how, and when."""

from __future__ import annotations

import numpy as np
from common import arguments, options, rows, tokenizer_of, trained

from omniform import (
    DataCollatorForSeq2Seq,
    EvalPrediction,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)


def shared(one: str, other: str) -> float:
    """F1 of the words that two texts share (ROUGE-1)."""
    ours, theirs = one.split(), other.split()
    both = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
    return 2 * both / max(len(ours) + len(theirs), 1)


def main() -> None:
    given = options(__doc__, steps=500, examples=2400, held_out=100)
    set_seed(1)
    train, held_out = rows("matches_train")[: given.examples], rows("matches_eval")[: given.held_out]
    tokenizer = tokenizer_of(row["document"] for row in train)
    end = tokenizer.eos_token_id

    def read(part: list[dict]) -> list[dict]:
        return [
            {
                "input_ids": [*tokenizer(row["document"])["input_ids"], end],
                "labels": [*tokenizer(row["summary"])["input_ids"], end],
            }
            for row in part
        ]

    def rouge(prediction: EvalPrediction) -> dict[str, float]:
        written, wanted = (np.where(x == -100, tokenizer.pad_token_id, x) for x in prediction)
        pairs = zip(*(tokenizer.batch_decode(x, skip_special_tokens=True) for x in (written, wanted)), strict=True)
        scores = [(shared(ours, theirs), ours.strip() == theirs.strip()) for ours, theirs in pairs]
        return {"rouge1": float(np.mean([s for s, _ in scores])), "exact": float(np.mean([e for _, e in scores]))}

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=end,
    )
    model = T5ForConditionalGeneration(config)
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments(given, Seq2SeqTrainingArguments, predict_with_generate=True, generation_max_length=24),
        train_dataset=read(train),
        eval_dataset=read(held_out),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_metrics=rouge,
    )
    trained(trainer, "rouge1")


if __name__ == "__main__":
    main()
