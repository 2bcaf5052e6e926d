"""The parts of ``store_cluster.py``: nodes that come and go, clients that check every answer, and what came of it.

Imports are relative to ``benchmarks``, as Ray's clients are processes of their own that begin there.
"""
