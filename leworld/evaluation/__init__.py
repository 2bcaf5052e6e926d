"""Evaluation of world models: metrics, baselines and their pictures."""
