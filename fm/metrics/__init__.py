"""How far samples are from real pictures: features, their statistics, distances. Knows no sampler and no data set."""

from fm.metrics.distances import DISTANCES, Estimate, distance, energy_estimate, estimate, jackknife, of_reference
from fm.metrics.features import FEATURES, check_features, identity_of, load_features
from fm.metrics.fidelity import psnr, ssim
from fm.metrics.frechet import fd_extrapolated, frechet_distance
from fm.metrics.network import Features
from fm.metrics.score import class_probabilities, inception_score
from fm.metrics.statistics import FeatureStatistics

__all__ = [
    "DISTANCES",
    "FEATURES",
    "Estimate",
    "FeatureStatistics",
    "Features",
    "check_features",
    "class_probabilities",
    "distance",
    "energy_estimate",
    "estimate",
    "fd_extrapolated",
    "frechet_distance",
    "identity_of",
    "inception_score",
    "jackknife",
    "load_features",
    "of_reference",
    "psnr",
    "ssim",
]
