"""Trainings by name: what ``omniform train`` can be asked for, one file each; see :mod:`omniform.train.tasks.base`."""
