"""Measuring: configs, contenders side by side, commits, and what is kept of it."""
