"""Ray actors: state and transport around the mathematics of ``leworld``, which they never add to."""
