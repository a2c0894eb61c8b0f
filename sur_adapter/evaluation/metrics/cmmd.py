"""How far one set of pictures lies from another: CMMD (Jayasumana et al., arXiv 2401.09603), steady from 500 pictures on.

MMD² = k̄(x, x) + k̄(y, y) − 2 k̄(x, y), k(a, b) = exp(−‖a − b‖² / 2σ²), σ = 10, on unit vectors of CLIP, times 1,000. Means run over
all pairs, a picture with itself among them, so it is never negative, and 0 for equal sets.
"""

import numpy as np

LEAST = 500  # pictures of either set
SIGMA, SCALE = 10.0, 1000.0


def compare(x: np.ndarray, y: np.ndarray) -> float:
    """x (N, d), y (M, d)."""
    return float(SCALE * (_kernel(x, x) + _kernel(y, y) - 2 * _kernel(x, y)))


def _kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of k over all pairs. Of squares of unit length ‖a − b‖² / 2 = 1 − a·b; expm1, since the means differ in their last digits."""
    return np.expm1((x.astype(np.float64) @ y.astype(np.float64).T - 1) / SIGMA**2).mean()
