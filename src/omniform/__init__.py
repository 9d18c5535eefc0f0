"""omniform loads any Hugging Face checkpoint and runs it."""
