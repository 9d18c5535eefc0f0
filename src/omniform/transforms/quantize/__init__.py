"""Quantizers: transforms that keep a model's weights in fewer bits, ours and those of users."""
