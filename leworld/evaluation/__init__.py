"""Which numbers say that a world model works: metrics, baselines and their pictures."""

from leworld.evaluation.baselines import BASELINES, applicable, evaluate, train_baselines
from leworld.evaluation.metrics import (
    Interval,
    errors,
    exact_mask,
    hit,
    hit_rate,
    mask_bits,
    mse,
    paired_interval,
    ratio_interval,
)
from leworld.evaluation.predictor import Budget, Predictor

__all__ = [
    "BASELINES",
    "Budget",
    "Interval",
    "Predictor",
    "applicable",
    "errors",
    "evaluate",
    "exact_mask",
    "hit",
    "hit_rate",
    "mask_bits",
    "mse",
    "paired_interval",
    "ratio_interval",
    "train_baselines",
]
