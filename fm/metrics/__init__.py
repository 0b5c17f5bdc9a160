"""How far samples are from real pictures: features, their statistics, distances. Knows no sampler and no data set."""

from fm.metrics.distances import DISTANCES, Estimate, energy_estimate, frechet_distance, jackknife
from fm.metrics.features import FEATURES, load_features
from fm.metrics.network import Features
from fm.metrics.statistics import FeatureStatistics

__all__ = [
    "DISTANCES",
    "FEATURES",
    "Estimate",
    "FeatureStatistics",
    "Features",
    "energy_estimate",
    "frechet_distance",
    "jackknife",
    "load_features",
]
