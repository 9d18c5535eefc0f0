"""Tokenizers of the user's own, written in Python against the ecosystem's protocol."""
