"""Which numbers say that a world model works: metrics, baselines and their pictures."""
