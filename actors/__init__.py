"""Ray actors: state and transport around ``leworld``. They add no mathematics of their own."""
