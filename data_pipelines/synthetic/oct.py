"""The optical coherence tomogram of an eye: B-scans through the macula."""

from __future__ import annotations

import numpy as np

from data_pipelines.synthetic import anatomy, raster, vessels
from data_pipelines.synthetic.causes import Eye

# Depth of a B-scan in mm.
_DEPTH_MM = 1.15
# Reflectivity (0 to 1) of the vitreous and of what lies below each surface in turn.
_VITREOUS = 0.035
_LAYERS = (("ilm", 0.72), ("rnfl", 0.50), ("gcl", 0.54), ("ipl", 0.32), ("inl", 0.50),
           ("opl", 0.20), ("elm", 0.24), ("ez", 0.42))  # fmt: skip


def render(eye: Eye, slices: int, size: int) -> np.ndarray:
    """Raster scan of ``eye``: uint8[slices, size, size], superior B-scan first.

    The nasal side is on the right in OD and on the left in OS, as in the photograph.
    """
    surfaces = anatomy.surfaces(eye, slices, size)
    depth = ((np.arange(size, dtype=np.float32) + 0.5) * (_DEPTH_MM / size))[None, :, None]
    pixel = _DEPTH_MM / size
    volume = _neurosensory(surfaces, depth, pixel)
    _epithelium(eye, volume, surfaces, depth, pixel)
    _cysts(eye, volume, surfaces, depth)
    light = _exudates(eye, volume, surfaces, depth, pixel)
    volume = _shadows(eye, volume, surfaces, depth, light)
    return _record(eye, volume)


def _below(depth: np.ndarray, surface: np.ndarray, blur: float) -> np.ndarray:
    """0 above ``surface`` [T, W], 1 below, over a ramp of ``blur`` mm: float32[T, H, W]."""
    out = depth - surface[:, None, :]
    out *= 1.0 / blur
    out += 0.5
    return np.clip(out, 0.0, 1.0, out=out)


def _line(depth: np.ndarray, surface: np.ndarray, width: float) -> np.ndarray:
    """A bright line of half ``width`` mm at ``surface``, 1 on it: float32[T, H, W]."""
    out = depth - surface[:, None, :]
    out *= 1.0 / width
    out *= out
    return np.clip(1.0 - 0.5 * out, 0.0, 1.0, out=out)


def _neurosensory(surfaces: anatomy.Surfaces, depth: np.ndarray, pixel: float) -> np.ndarray:
    """Vitreous and retina down to the photoreceptors: reflectivity float32[T, H, W]."""
    blur = max(0.010, 1.2 * pixel)
    volume = np.float32(_VITREOUS)
    last = _VITREOUS
    for name, reflectivity in _LAYERS:
        volume = volume + (reflectivity - last) * _below(depth, getattr(surfaces, name), blur)
        last = reflectivity
    width = max(0.006, 0.8 * pixel)
    alive = (1.0 - surfaces.atrophy)[:, None, :]
    volume += 0.14 * alive * _line(depth, surfaces.elm, width)
    volume += alive * 0.42 * _line(depth, surfaces.ez, 1.3 * width)
    return volume


def _epithelium(
    eye: Eye, volume: np.ndarray, surfaces: anatomy.Surfaces, depth: np.ndarray, pixel: float
) -> None:
    """Fluid, pigment epithelium, drusen, choroid and sclera, in place."""
    slices, size = volume.shape[0], volume.shape[2]
    blur = max(0.010, 1.2 * pixel)
    if surfaces.fluid.any():
        gap = _below(depth, surfaces.rpe - surfaces.fluid, blur)
        gap *= 1.0 - _below(depth, surfaces.rpe - 0.015, blur)
        gap *= (surfaces.fluid > 0.012)[:, None, :]
        volume *= 1.0 - 0.88 * gap
    below = _below(depth, surfaces.rpe, blur)
    under = depth - surfaces.bruch[:, None, :]
    # Light fades with depth; where the epithelium is lost more of it reaches the choroid.
    fade = np.exp(-np.maximum(under, 0.0) * 3.4)
    strength = 0.36 + 0.30 * surfaces.atrophy[:, None, :]
    texture = np.stack([raster.noise_field(eye.rng(50 + i), 14, size) for i in range(slices)])
    vascular = 1.0 - _below(depth, surfaces.choroid, 3 * blur)
    choroid = fade * (strength + 0.09 * texture * vascular + 0.10 * (1.0 - vascular))
    volume += below * (choroid - volume)
    if (surfaces.bruch - surfaces.rpe).any():
        material = below * (1.0 - _below(depth, surfaces.bruch, blur))
        volume += material * (0.46 - volume)
        volume += 0.25 * _line(depth, surfaces.bruch, max(0.006, 0.8 * pixel)) * material
    band = _line(depth, surfaces.rpe, max(0.016, 1.1 * pixel))
    volume += band * (1.0 - 0.75 * surfaces.atrophy[:, None, :]) * np.maximum(0.95 - volume, 0.0)


def _cysts(eye: Eye, volume: np.ndarray, surfaces: anatomy.Surfaces, depth: np.ndarray) -> None:
    """Intraretinal cysts within the oedema, in the inner nuclear and outer plexiform layers."""
    pool = eye.lesions("oedema")
    if len(pool) == 0:
        return
    rng = eye.rng(42)
    count = 14 if eye.macular_oedema else 5
    size = volume.shape[2]
    x = np.linspace(-anatomy.HALF_WIDTH, anatomy.HALF_WIDTH, size, dtype=np.float32)
    y = anatomy.scan_lines(volume.shape[0])
    place = pool[0, :2] + rng.normal(0.0, 0.42, (count, 2)) * pool[0, 2:4]
    width = rng.uniform(0.016, 0.042, count)
    level = rng.uniform(0.25, 0.75, count)
    for (px, py), radius, where in zip(place, width, level, strict=True):
        rows = np.flatnonzero(np.abs(y - py) < 1.9 * radius)
        columns = np.flatnonzero(np.abs(x - px) < 1.3 * radius)
        for row in rows if len(columns) else ():
            middle = int(columns[len(columns) // 2])
            top, bottom = surfaces.gcl[row, middle], surfaces.elm[row, middle]
            tall = min(1.1 * radius, 0.8) * anatomy.UNIT_MM * 0.30
            tall = min(tall, 0.42 * float(bottom - top))
            centre = top + where * (bottom - top)
            across = ((x[columns] - px) / radius) ** 2 + ((y[row] - py) / (1.9 * radius)) ** 2
            distance = across[None, :] + ((depth[0] - centre) / max(tall, 1e-3)) ** 2
            hole = np.clip((1.15 - distance) * 4.0, 0.0, 1.0)
            patch = volume[row][:, columns]
            volume[row][:, columns] = patch + 0.95 * hole * (0.06 - patch)


def _exudates(
    eye: Eye, volume: np.ndarray, surfaces: anatomy.Surfaces, depth: np.ndarray, pixel: float
) -> np.ndarray:
    """Bright foci where the photograph shows hard exudates; light left below them [T, W]."""
    slices, _, size = volume.shape
    light = np.ones((slices, size), np.float32)
    lesions = eye.lesions("hard_exudates")
    if len(lesions) == 0:
        return light
    x = np.linspace(-anatomy.HALF_WIDTH, anatomy.HALF_WIDTH, size, dtype=np.float32)[None, :]
    y = anatomy.scan_lines(slices)[:, None]
    cover = anatomy.bumps(lesions, x, y, 2.0)
    focus = _line(depth, surfaces.opl + 0.01, max(0.022, 1.2 * pixel))
    volume += 0.65 * cover[:, None, :] * focus * np.maximum(1.0 - volume, 0.0)
    return light - 0.5 * cover


def _shadows(
    eye: Eye, volume: np.ndarray, surfaces: anatomy.Surfaces, depth: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """Darken what lies behind retinal vessels, blood and exudates."""
    slices, _, size = volume.shape
    view = raster.View(1.0 / anatomy.HALF_WIDTH, (0.0, 0.0))
    cover = np.maximum(
        vessels.draw(eye.veins, view, size), 0.7 * vessels.draw(eye.arteries, view, size)
    )
    row = (anatomy.scan_lines(slices) / anatomy.HALF_WIDTH + 1.0) * size / 2
    line = np.clip(row.astype(int), 0, size - 1)
    light = light * (1.0 - 0.55 * cover[line])
    x = np.linspace(-anatomy.HALF_WIDTH, anatomy.HALF_WIDTH, size, dtype=np.float32)[None, :]
    y = anatomy.scan_lines(slices)[:, None]
    for kind in ("haemorrhages", "subretinal_haemorrhage", "preretinal_haemorrhage"):
        near = eye.lesions(kind)
        near = near[np.hypot(near[:, 0], near[:, 1]) < 0.65]
        if len(near):
            light = light * (1.0 - 0.5 * anatomy.bumps(near, x, y, 2.0))
    behind = _below(depth, surfaces.opl, 0.03)
    return volume * (1.0 - behind * (1.0 - light[:, None, :]))


def _record(eye: Eye, volume: np.ndarray) -> np.ndarray:
    """Signal strength, speckle and detector noise; mirror left eyes."""
    rng = eye.rng(43)
    signal = (1.0, 0.80, 0.58, 0.40)[eye.cataract] * float(rng.uniform(0.9, 1.1))
    speckle = rng.standard_normal(volume.shape, dtype=np.float32)
    speckle *= 0.20
    speckle += 1.0
    volume = volume * speckle * signal
    noise = rng.standard_normal(volume.shape, dtype=np.float32)
    volume += (0.030 + 0.014 * eye.cataract) * np.abs(noise)
    out = (np.clip(volume, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(out if eye.side == "OD" else out[:, :, ::-1])
