"""x"""

TALKERS = {}


def mixed(only, runs, tiny):
    return {}
