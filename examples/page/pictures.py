"""The pictures of the page, drawn anew at any width: a bay with hills, and grain as a photograph has it."""

import numpy as np
from PIL import Image

ASPECT = 16 / 9
NAMES = ("harbour", "deck", "island")
GRAIN = 2.0  # standard deviation, of 255


def draw(name: str, width: int) -> Image.Image:
    """One of `NAMES`, `width` pixels wide."""
    seed = NAMES.index(name)
    height = round(width / ASPECT)
    y_Hx1, x_1xW = np.linspace(0, 1, height)[:, None], np.linspace(0, ASPECT, width)[None]
    sky, sea = np.array([250, 190 - 20 * seed, 120 + 30 * seed]), np.array([20, 70 + 15 * seed, 110 - 10 * seed])
    rgb_HxWx3 = np.where(y_Hx1[..., None] < 0.62, sky - (90 * y_Hx1[..., None]), sea + 60 * (y_Hx1[..., None] - 0.6))
    rgb_HxWx3 = np.broadcast_to(rgb_HxWx3, (height, width, 3)).copy()
    sun_HxW = np.exp(-((x_1xW - 0.4 - 0.3 * seed) ** 2 + (y_Hx1 - 0.3) ** 2) / 0.02)
    rgb_HxWx3 += 120 * sun_HxW[..., None] * (y_Hx1[..., None] < 0.62)
    for ridge in range(4):
        crest_1xW = 0.42 + 0.05 * ridge + 0.05 * np.sin(x_1xW * (5 + 3 * ridge) + seed + ridge)
        is_hill_HxW = (y_Hx1 > crest_1xW) & (y_Hx1 < 0.62)
        rgb_HxWx3[is_hill_HxW] = np.array([90, 110, 120]) - 20 * ridge
    waves_HxW = 14 * np.sin(60 * y_Hx1**2 + 3 * np.sin(9 * x_1xW + seed)) * (y_Hx1 > 0.62)
    rgb_HxWx3 += waves_HxW[..., None]
    rgb_HxWx3 += GRAIN * np.random.default_rng(seed).standard_normal(rgb_HxWx3.shape)
    return Image.fromarray(np.clip(rgb_HxWx3, 0, 255).astype(np.uint8))
