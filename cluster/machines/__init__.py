"""Clusters of machines: ``leworld cluster`` wraps Ray's own commands and keeps clear of their pitfalls."""
