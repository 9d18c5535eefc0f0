"""A small BERT learns from nothing what reviews say; negations turn words around, so single words do not tell."""

from __future__ import annotations

import numpy as np
from common import arguments, options, rows, tokenizer_of, trained

from omniform import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    set_seed,
)

LABELS = ["negative", "mixed", "positive"]


def main() -> None:
    given = options(__doc__, steps=600, examples=2000, held_out=300)
    set_seed(1)
    train, held_out = rows("reviews_train")[: given.examples], rows("reviews_eval")[: given.held_out]
    tokenizer = tokenizer_of(row["text"] for row in train)

    def read(part: list[dict]) -> list[dict]:
        return [{**tokenizer(row["text"]), "labels": LABELS.index(row["label"])} for row in part]

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )

    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        scores, labels = prediction
        return {"accuracy": float((np.argmax(scores, -1) == labels).mean())}

    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=arguments(given),
        train_dataset=read(train),
        eval_dataset=read(held_out),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    trained(trainer, "accuracy")


if __name__ == "__main__":
    main()
