"""The mathematics of a world model that looks things up, and the memory that it looks them up in."""
