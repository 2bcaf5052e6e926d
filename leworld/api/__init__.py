"""The Python API: a model, its sessions and its memory. It takes and returns numpy arrays."""
