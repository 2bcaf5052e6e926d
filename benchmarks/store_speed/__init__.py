"""The parts of ``store_speed.py``: rivals, and the rows of its table."""
