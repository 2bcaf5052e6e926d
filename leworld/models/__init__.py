"""The learned parts: codec, addressing, SLMs, router, BLM, and the system that joins them."""
