"""A stranger's code in a process of its own, which has no network, no home folder and nothing to write to."""
