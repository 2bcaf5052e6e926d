"""What a user of Python has: a model, its sessions and its memory. Numpy goes in and numpy comes out."""
