"""Fréchet distance of two sets of images on CLIP embeddings (Kynkäänniemi et al., arXiv 2203.06026), from 2,000 images.

‖μx − μy‖² + tr(Σx + Σy − 2 (Σx Σy)^½). With fewer images the covariances are mostly noise, and the value depends mainly on their number.
The embeddings are not those of Inception: values do not compare with published FIDs.
"""

from dataclasses import dataclass

import numpy as np

MIN_IMAGES = 2000


@dataclass(frozen=True)
class Config:
    """No settings."""


def compare(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the Fréchet distance of x (N, d) and y (M, d)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)  # (d, d)
    root = _matrix_sqrt(a)
    eigenvalues = np.linalg.eigvalsh(root @ b @ root).clip(0)  # of Σx Σy
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.sqrt(eigenvalues).sum())


def _matrix_sqrt(a: np.ndarray) -> np.ndarray:
    """Computes the square root of a symmetric matrix, (d, d)."""
    values, vectors = np.linalg.eigh(a)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T
