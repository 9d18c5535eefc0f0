"""A small Llama learns from nothing to tell stories: packed rows, perplexity, and a story of its own."""

from __future__ import annotations

import math

from common import arguments, options, rows, tokenizer_of

from omniform import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM, Trainer, set_seed


def main() -> None:
    given = options(__doc__, steps=300, examples=1500, held_out=150)
    set_seed(1)
    train, held_out = rows("stories_train")[: given.examples], rows("stories_eval")[: given.held_out]
    tokenizer = tokenizer_of(row["text"] for row in train)

    def read(part: list[dict]) -> list[dict]:
        ends = tokenizer.eos_token_id
        return [{"input_ids": [ends, *tokenizer(row["text"])["input_ids"], ends]} for row in part]

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    # Texts stand end to end in one row without padding, and each sees itself only.
    trainer = Trainer(
        model=model,
        args=arguments(given, per_device_train_batch_size=16, learning_rate=2e-3),
        train_dataset=read(train),
        eval_dataset=read(held_out),
        data_collator=DataCollatorWithFlattening(),
        processing_class=tokenizer,
    )
    before = trainer.evaluate()
    trainer.train()
    trainer.save_model()
    after = trainer.evaluate()
    print(f"perplexity: {math.exp(before['eval_loss']):.3f} before, {math.exp(after['eval_loss']):.3f} after")
    start = tokenizer("Once a fox", return_tensors="pt")["input_ids"]
    told = model.generate(start, max_new_tokens=80, do_sample=False)
    print(tokenizer.decode(told[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
