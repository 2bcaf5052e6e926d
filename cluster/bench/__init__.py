"""``leworld bench``: every claim with the command that measures it."""
