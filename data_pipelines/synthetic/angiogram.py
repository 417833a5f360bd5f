"""The fluorescein angiogram of an eye: what glows, leaks, blocks or stays dark in each phase."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from data_pipelines.synthetic import fundus, raster, vessels
from data_pipelines.synthetic.causes import PHASES, Eye

# Brightness by phase (arterial, venous, late).
_BACKGROUND = (0.10, 0.24, 0.22)
_ARTERIES = (0.95, 0.88, 0.48)
_VEINS = (0.16, 0.95, 0.52)
_DISC = (0.20, 0.36, 0.58)
_STAINING = (0.05, 0.30, 0.60)


def render(eye: Eye, size: int) -> np.ndarray:
    """Angiogram of ``eye`` in its phase: uint8[size, size], framed as its colour photograph."""
    phase = PHASES.index(eye.phase)
    x, y = eye.camera.view.grid(size)
    image = _background(eye, size, x, y, phase)
    _window_defects(eye, image, size, phase)
    _disc(eye, image, x, y, phase)
    _vessels(eye, image, size, phase)
    _leakage(eye, image, size, phase)
    _blocking(eye, image, size)
    return _expose(eye, image, size)


def _lift(image: np.ndarray, cover: np.ndarray, value: float) -> None:
    """Raise ``image`` in place to ``value`` where ``cover`` is 1; never lower it."""
    image += cover * np.maximum(value - image, 0.0)


def _background(eye: Eye, size: int, x: np.ndarray, y: np.ndarray, phase: int) -> np.ndarray:
    rng = eye.rng(30)
    flush = raster.noise_field(rng, 9, size) * (0.30, 0.08, 0.06)[phase]
    capillaries = np.abs(raster.noise_field(rng, 60, size)) - 0.6
    image = _BACKGROUND[phase] * (1.0 + flush + (0.10, 0.30, 0.15)[phase] * capillaries)
    # Luteal pigment and taller pigment epithelium darken the macula; its centre has no vessels.
    radius = np.sqrt(x * x + y * y)
    image *= 1.0 - 0.45 * np.exp(-((radius / 0.26) ** 2))
    image *= 1.0 - 0.65 * np.exp(-((radius / vessels.AVASCULAR_RADIUS) ** 2))
    gaps = fundus.blotch(eye, "nonperfusion", size)
    image *= 1.0 - 0.75 * gaps
    return image


def _window_defects(eye: Eye, image: np.ndarray, size: int, phase: int) -> None:
    """Choroidal glow through damaged pigment epithelium, and staining of drusen and scars."""
    view = eye.camera.view
    for kind, gain in (("drusen", 0.75), ("geographic_atrophy", 1.15), ("patchy_atrophy", 1.0)):
        if kind in eye.spots:
            cover = (
                raster.spots(eye.spots[kind], view, size, 1.6)
                if kind == "drusen"
                else fundus.blotch(eye, kind, size)
            )
            _lift(image, cover, gain * (0.30, 0.55, 0.62)[phase])
    if "pigment" in eye.spots:
        image *= 1.0 - 0.6 * raster.spots(eye.spots["pigment"], view, size, 1.3)


def _disc(eye: Eye, image: np.ndarray, x: np.ndarray, y: np.ndarray, phase: int) -> None:
    if eye.crescent:
        halo = raster.smoothstep(fundus.crescent_distance(eye, x, y), 1.0, 0.15)
        _lift(image, halo, _STAINING[phase])
    inside = raster.smoothstep(fundus.disc_distance(eye, x, y), 1.0, 0.12)
    image += inside * (_DISC[phase] - image)
    # The cup has fewer capillaries than the rim.
    cup = raster.smoothstep(fundus.cup_distance(eye, x, y), 1.0, 0.2)
    image *= 1.0 - 0.45 * cup


def _vessels(eye: Eye, image: np.ndarray, size: int, phase: int) -> None:
    view = eye.camera.view
    veins = vessels.draw(eye.veins, view, size)
    arteries = vessels.draw(eye.arteries, view, size)
    if phase == 0:
        # Unfilled veins are dark bands against the choroid.
        image *= 1.0 - 0.35 * veins
    else:
        _lift(image, veins, _VEINS[phase])
    _lift(image, arteries, _ARTERIES[phase])
    gaps = fundus.blotch(eye, "nonperfusion", size)
    image *= 1.0 - 0.45 * gaps


def _leakage(eye: Eye, image: np.ndarray, size: int, phase: int) -> None:
    """Microaneurysms, new vessels, membranes and oedema, which glow and then leak."""
    view = eye.camera.view
    if "microaneurysms" in eye.spots:
        dots = eye.spots["microaneurysms"].copy()
        dots[:, 2:4] *= (0.8, 1.0, 1.6)[phase]
        _lift(image, raster.spots(dots, view, size), (0.45, 0.95, 0.75)[phase])
    new_vessels = np.concatenate(
        [eye.lesions("new_vessels_disc"), eye.lesions("new_vessels_elsewhere")]
    )
    if len(new_vessels):
        tangle = vessels.draw_even(eye.new_vessels, 0.010, view, size)
        _lift(image, tangle, (0.8, 1.0, 0.9)[phase])
        cloud = new_vessels.copy()
        cloud[:, 2:4] *= (0.5, 0.9, 1.3)[phase]
        _lift(image, raster.spots(cloud, view, size), (0.25, 0.80, 1.0)[phase])
    if "choroidal_neovascularisation" in eye.spots:
        membrane = eye.spots["choroidal_neovascularisation"].copy()
        membrane[:, 2:4] *= (0.8, 1.0, 1.25)[phase]
        lace = np.clip(0.8 + 0.35 * raster.noise_field(eye.rng(31), 50, size), 0.3, 1.2)
        cover = raster.spots(membrane, view, size, (2.5, 2.0, 1.3)[phase])
        _lift(image, cover * np.clip(lace, 0, 1), (0.65, 0.85, 0.95)[phase])
    if eye.macular_oedema:
        pool = raster.spots(eye.lesions("oedema"), view, size, 1.5)
        petals = np.clip(0.75 + 0.30 * raster.noise_field(eye.rng(32), 26, size), 0.2, 1.0)
        _lift(image, pool * petals, (0.10, 0.36, 0.70)[phase])
    if eye.dr_grade >= 3:
        gaps = raster.spots(eye.lesions("nonperfusion"), view, size)
        _lift(image, 0.3 * gaps, (0.05, 0.10, 0.30)[phase])


def _blocking(eye: Eye, image: np.ndarray, size: int) -> None:
    """Blood hides the fluorescence behind it, exudates a little."""
    view = eye.camera.view
    for kind, hardness, share in (
        ("haemorrhages", 2.0, 0.8),
        ("flame_haemorrhages", 1.4, 0.7),
        ("disc_haemorrhage", 1.4, 0.7),
        ("hard_exudates", 2.0, 0.25),
        ("cotton_wool_spots", 1.2, 0.5),
    ):
        if kind in eye.spots:
            image *= 1.0 - share * raster.spots(eye.spots[kind], view, size, hardness)
    image *= 1.0 - 0.8 * fundus.blotch(eye, "subretinal_haemorrhage", size)
    if "preretinal_haemorrhage" in eye.spots:
        image *= 1.0 - 0.92 * fundus.preretinal_cover(eye, size)


def _expose(eye: Eye, image: np.ndarray, size: int) -> np.ndarray:
    camera = eye.camera
    u, v = raster.axis(size)[None, :], raster.axis(size)[:, None]
    light = 1.0 + camera.gradient[0] * u + camera.gradient[1] * v
    image = image * (light - 0.4 * camera.vignette * (u * u + v * v))
    blur = camera.defocus * size / 2.0
    if eye.cataract:
        veil = (0.0, 0.18, 0.36, 0.55)[eye.cataract]
        image = image * (1.0 - veil) + 0.20 * veil
        blur += (0.0, 0.008, 0.016, 0.026)[eye.cataract] * size / 2.0
    pixels = (np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    if blur > 0.15:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur)))
    grain = eye.rng(33).standard_normal((size, size), dtype=np.float32) * (380 * camera.noise)
    out = np.clip((pixels + grain) * fundus.field_mask(eye, size), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(out if eye.side == "OD" else out[:, ::-1])
