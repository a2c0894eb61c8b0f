"""Statistics of one RGB image. None of them measures quality by itself; they show where arms differ."""

import numpy as np
from PIL import Image
from scipy.ndimage import laplace

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float64) / 255  # (H, W, 3), 0 to 1


def sharpness(image: Image.Image) -> float:
    """Computes the standard deviation of the Laplacian of the luma (Pech-Pacheco et al. 2000, who use its square)."""
    return float(laplace(_pixels(image) @ LUMA).std())


def contrast(image: Image.Image) -> float:
    """Computes the standard deviation of the luma (RMS contrast), 0 to 0.5."""
    return float((_pixels(image) @ LUMA).std())


def colourfulness(image: Image.Image) -> float:
    """Computes Hasler & Süsstrunk's (2003) √(σ²_rg + σ²_yb) + 0.3 √(μ²_rg + μ²_yb), rg = R − G, yb = (R + G) / 2 − B."""
    r, g, b = np.moveaxis(_pixels(image), -1, 0)
    rg, yb = r - g, (r + g) / 2 - b
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def entropy(image: Image.Image) -> float:
    """Computes −Σ p log₂ p of the luma's histogram with 256 bins (Shannon 1948), 0 to 8 bits."""
    counts = np.bincount((_pixels(image) @ LUMA * 255).round().astype(int).ravel(), minlength=256)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0  # no −0.0


IMAGE_STATISTICS = {"sharpness": sharpness, "contrast": contrast, "colourfulness": colourfulness, "entropy": entropy}


def image_statistics(images: list[Image.Image]) -> list[list[float]]:
    """Computes IMAGE_STATISTICS of each image, (N, 4)."""
    return [[statistic(image) for statistic in IMAGE_STATISTICS.values()] for image in images]
