"""Rows, records and samples -> pictures and one self-contained page of HTML. It measures nothing."""

from torch import Tensor

from fm.report import figures, plane_figures
from fm.report.page import Pictures, write_report

__all__ = ["Pictures", "picture", "write_report"]


def picture(samples: Tensor) -> bytes:
    """A PNG of samples: images (n, c, h, w) in a grid, points (n, 2) in the plane."""
    return figures.image_grid(samples) if samples.ndim == 4 else plane_figures.points(samples)
