"""The Fréchet distance of two sets of pictures on CLIP's vectors (Kynkäänniemi et al., arXiv 2203.06026), from 2,000 pictures on.

‖μx − μy‖² + tr(Σx + Σy − 2 (Σx Σy)^½). Below that number the covariances are made of chance, and the figure mostly of the number of
pictures. Not on Inception's features: it compares with no FID that others report.
"""

import numpy as np

LEAST = 2000  # pictures of either set


def compare(x: np.ndarray, y: np.ndarray) -> float:
    """x (N, d), y (M, d)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)  # (d, d)
    root = _root(a)
    cross = np.linalg.eigvalsh(root @ b @ root).clip(0)  # the eigenvalues of Σx Σy
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.sqrt(cross).sum())


def _root(a: np.ndarray) -> np.ndarray:
    """The symmetric square root, (d, d)."""
    values, vectors = np.linalg.eigh(a)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T
