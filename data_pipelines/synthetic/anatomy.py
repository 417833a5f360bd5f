"""Surfaces of the retina under a macular OCT raster, in millimetres of depth.

Thicknesses are those of the standard anatomy: about 0.22 mm at the foveal centre, 0.34 mm on the
parafoveal ring, thinner outwards; choroid about 0.28 mm.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from data_pipelines.synthetic.causes import Eye

# Half the width of the raster in unit coordinates (about 6 mm in all), and one unit in mm.
HALF_WIDTH = 0.435
UNIT_MM = 6.9
# Height of the raster from the first to the last B-scan, in unit coordinates.
_SCAN_HEIGHT = 0.60


@dataclasses.dataclass(frozen=True)
class Surfaces:
    """Depths float32[T, W] in mm, downwards, from the vitreous to the sclera.

    Attributes:
        ilm, rnfl, gcl, ipl, inl, opl, elm, ez: lower boundary of each layer but for ``ilm``, which
            is where the retina begins, and ``elm`` and ``ez``, which are lines.
        rpe: the pigment epithelium, lifted by drusen; bruch: its bed, not lifted.
        choroid: the lower boundary of the choroid.
        fluid: thickness of subretinal fluid above the epithelium.
        atrophy: 0 to 1, how much of the epithelium is lost.
    """

    ilm: np.ndarray
    rnfl: np.ndarray
    gcl: np.ndarray
    ipl: np.ndarray
    inl: np.ndarray
    opl: np.ndarray
    elm: np.ndarray
    ez: np.ndarray
    rpe: np.ndarray
    bruch: np.ndarray
    choroid: np.ndarray
    fluid: np.ndarray
    atrophy: np.ndarray


def scan_lines(slices: int) -> np.ndarray:
    """Vertical positions of the B-scans, float32[slices]; number slices // 2 crosses the fovea."""
    return ((np.arange(slices) - slices // 2) * (_SCAN_HEIGHT / slices)).astype(np.float32)


def bumps(lesions: np.ndarray, x: np.ndarray, y: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Height field of soft ellipses (their maximum), shaped as the broadcast of ``x`` and ``y``.

    Args:
        lesions: float32[N, 6], see ``lesions``.
        x: positions along a B-scan. y: of the B-scans.
        power: exponent of exp(-d^(2 * power)).
    """
    out = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for px, py, along, across, angle, strength in lesions.tolist():
        dx, dy = x - px, y - py
        cos, sin = math.cos(angle), math.sin(angle)
        distance = ((dx * cos + dy * sin) / along) ** 2 + ((dy * cos - dx * sin) / across) ** 2
        np.maximum(out, strength * np.exp(-(distance**power)), out=out)
    return out


def surfaces(eye: Eye, slices: int, width: int) -> Surfaces:
    """Layer boundaries of ``eye`` on ``slices`` B-scans of ``width`` columns."""
    x = np.linspace(-HALF_WIDTH, HALF_WIDTH, width, dtype=np.float32)[None, :]
    y = scan_lines(slices)[:, None]
    radius = np.sqrt(x * x + y * y)
    bruch = _bed(eye, x, y)
    rpe = bruch - _detachment(eye, x, y)
    lost = np.concatenate([eye.lesions("geographic_atrophy"), eye.lesions("patchy_atrophy")])
    atrophy = bumps(lost, x, y, 4.0)
    swelling, fluid = _oedema(eye, x, y)
    pit = 1.0 - np.exp(-((radius / 0.085) ** 2))
    ring = pit * (0.45 + 0.75 * np.exp(-((radius / 0.30) ** 2)))
    inner = _inner_loss(eye, x, y)
    ez = rpe - 0.040 - fluid
    elm = ez - 0.028
    # The photoreceptor layer gives way to what pushes from below, so the surface stays smooth.
    nuclear = (0.062 + 0.045 * (1.0 - pit)) * (1.0 - 0.55 * atrophy)
    give = np.minimum(0.75 * (bruch - rpe), 0.7 * nuclear)
    opl = elm - nuclear + give - 0.50 * swelling
    inl = opl - 0.028 * np.clip(pit + 0.15, 0.0, 1.0)
    ipl = inl - 0.038 * ring - 0.40 * swelling
    gcl = ipl - 0.040 * ring
    rnfl = gcl - 0.048 * ring * inner
    nasal = np.clip(0.55 + 1.1 * x, 0.2, 1.2)
    ilm = rnfl - 0.042 * pit * nasal * inner - 0.10 * swelling - 0.004
    thin = float(np.clip((-eye.myopia - 3.0) / 15.0, 0.0, 1.0))
    choroid = bruch + (0.30 - 0.001 * eye.age) * (1.0 - 0.85 * thin)
    return Surfaces(
        ilm, rnfl, gcl, ipl, inl, opl, elm, ez, rpe, bruch, choroid + 0.0 * x, fluid, atrophy
    )


def _bed(eye: Eye, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bruch's membrane: slightly tilted and curved, a staphyloma in pathologic myopia."""
    rng = eye.rng(40)
    tilt = rng.normal(0.0, 0.16)
    bend = 0.15 + 2.6 * float(np.clip((-eye.myopia - 6.0) / 12.0, 0.0, 1.0))
    wobble = rng.normal(0.0, 0.008, y.shape)
    level = 0.76 + 0.35 * bend * HALF_WIDTH**2
    return (level + tilt * x - bend * (x * x + 0.6 * y * y) + wobble).astype(np.float32)


def _detachment(eye: Eye, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height in mm of the pigment epithelium over Bruch's membrane: drusen and membranes."""
    height = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    drusen = eye.lesions("drusen").copy()
    if len(drusen):
        drusen[:, 5] *= 0.35 * UNIT_MM * np.sqrt(drusen[:, 2] * drusen[:, 3])
        height = bumps(drusen, x, y)
    membrane = eye.lesions("choroidal_neovascularisation").copy()
    if len(membrane):
        membrane[:, 5] *= 0.16
        ripple = 1.0 + 0.08 * np.sin(34.0 * x + eye.seed % 7) + 0.05 * np.sin(90.0 * x)
        height = np.maximum(height, bumps(membrane, x, y, 2.0) * ripple)
    return height


def _oedema(eye: Eye, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thickening of the retina and subretinal fluid below it, both in mm."""
    pool = eye.lesions("oedema").copy()
    if len(pool) == 0:
        nothing = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        return nothing, nothing
    rng = eye.rng(41)
    shape = bumps(pool, x, y, 1.2)
    swelling = shape * float(rng.uniform(0.14, 0.26))
    wet = eye.amd_form == "neovascular"
    height = float(rng.uniform(0.06, 0.13)) if eye.subretinal_fluid else 0.0
    pool[:, 2:4] *= 0.75
    fluid = bumps(pool, x + 0.03, y, 2.0) * height
    return swelling * (0.45 if wet else 1.0), fluid


def _inner_loss(eye: Eye, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What glaucoma leaves of the nerve fibres and ganglion cells, 1 is all of them."""
    damage = float(np.clip((eye.cup_to_disc - 0.52) / 0.38, 0.0, 1.0))
    left = np.full(np.broadcast_shapes(x.shape, y.shape), 1.0 - 0.62 * damage, np.float32)
    if eye.nerve_fibre_defect is not None:
        half = np.clip(0.5 + 6.0 * y * np.sign(eye.nerve_fibre_defect), 0.0, 1.0)
        left *= 1.0 - 0.45 * half
    return left
