"""A small BERT learns from nothing to find people, places and companies whose names it has never read."""

from __future__ import annotations

import numpy as np
from common import arguments, options, rows, tokenizer_of, trained

from omniform import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
    Trainer,
    set_seed,
)

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]


def spans(tags: list[str]) -> set[tuple[int, int, str]]:
    """Names in a row of tags: where each begins and ends, and what it is of."""
    found, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and not tag.startswith("I-"):
            found.add((start, i, tags[start][2:]))
            start = None
        if tag.startswith("B-"):
            start = i
    return found


def found(prediction: EvalPrediction) -> dict[str, float]:
    """F1 of whole names."""
    scores, labels = prediction
    right = guessed = wanted = 0
    for row, truth in zip(np.argmax(scores, -1), labels, strict=True):
        kept = truth != -100
        ours, theirs = spans([TAGS[t] for t in row[kept]]), spans([TAGS[t] for t in truth[kept]])
        right, guessed, wanted = right + len(ours & theirs), guessed + len(ours), wanted + len(theirs)
    return {"f1": 2 * right / max(guessed + wanted, 1)}


def main() -> None:
    given = options(__doc__, steps=300, examples=1500, held_out=200)
    set_seed(1)
    train, held_out = rows("names_train")[: given.examples], rows("names_eval")[: given.held_out]
    tokenizer = tokenizer_of(" ".join(row["tokens"]) for row in train)

    def read(part: list[dict]) -> list[dict]:
        made = []
        for row in part:
            ids, labels = [], []
            for word, tag in zip(row["tokens"], row["ner_tags"], strict=True):
                pieces = tokenizer(f" {word}")["input_ids"]
                ids += pieces
                labels += [TAGS.index(tag), *[-100] * (len(pieces) - 1)]  # a word's first piece tells its tag
            made.append({"input_ids": ids, "labels": labels})
        return made

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(TAGS)),
        label2id={name: i for i, name in enumerate(TAGS)},
    )
    trainer = Trainer(
        model=BertForTokenClassification(config),
        args=arguments(given),
        train_dataset=read(train),
        eval_dataset=read(held_out),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        compute_metrics=found,
    )
    trained(trainer, "f1")


if __name__ == "__main__":
    main()
