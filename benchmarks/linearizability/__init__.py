"""The parts of ``store_histories.py``: what many do with a memory at once, and whether it was as if one after another.

Imports are relative, as the tests use these parts from the repository's root.
"""
