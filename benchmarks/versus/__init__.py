"""What ``benchmarks/compare.py`` is made of: workloads, the libraries' sides, pairs of runs, and reports.

Every measurement of one library runs in a process of its own (``child.py``), told what to do by a :class:`Job` and
answering with a :class:`Sample`; the process that starts them (``pairs.py``) computes nothing of its own meanwhile.
"""
