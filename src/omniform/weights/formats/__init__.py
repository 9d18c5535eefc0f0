"""Formats of quantized matrices; see :mod:`omniform.weights.formats.base`."""
