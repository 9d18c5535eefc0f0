"""Texts as vectors, and how well two texts fit: the checkpoints of sentence-transformers, read, run and saved.

Floor 6: a job done with models, on the floors of the hub and below; nothing of the engine is needed.
"""
