"""The parts of ``store_faults.py``: faults of one kind each, injected into memories on disk, and what became of them.

Imports are relative, as the tests use these parts from the repository's root.
"""
