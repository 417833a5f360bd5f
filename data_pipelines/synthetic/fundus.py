"""The colour fundus photograph of an eye."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from data_pipelines.synthetic import raster, vessels
from data_pipelines.synthetic.causes import Eye

_VEIN = (0.72, 0.45, 0.45)
_ARTERY = (0.92, 0.65, 0.57)
_BLOOD = (0.52, 0.20, 0.22)


def render(eye: Eye, size: int) -> np.ndarray:
    """Photograph ``eye``: uint8[size, size, 3]; the disc lies right in OD and left in OS."""
    x, y = eye.camera.view.grid(size)
    image = _background(eye, size, x, y)
    _choroid(eye, image, size, x, y)
    _subretinal(eye, image, size)
    _disc(eye, image, size, x, y)
    _vessels(eye, image, size)
    _retinal(eye, image, size)
    return _expose(eye, image, size)


def _background(eye: Eye, size: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Choroid and pigment epithelium with the darker macula: float32[3, size, size], 0 to 1."""
    rng = eye.rng(10)
    coarse = raster.noise_field(rng, 7, size)
    fine = raster.noise_field(rng, 40, size) + 0.7 * raster.noise_field(rng, 80, size)
    shade = 1.0 + 0.045 * coarse + 0.022 * fine
    image = shade * np.asarray(eye.tone, np.float32)[:, None, None]
    macula = raster.ellipse(x, y, (0.0, 0.0), (0.26, 0.22))
    raster.darken(image, 0.8 * np.exp(-(macula**2)), (0.78, 0.66, 0.62))
    raster.darken(image, np.exp(-((macula * 3.2) ** 2)), (0.82, 0.72, 0.70))
    if eye.age < 45:
        # The foveal light reflex of a young eye.
        image += 0.10 * np.exp(-((macula * 13.0) ** 2))
    return image


def _choroid(eye: Eye, image: np.ndarray, size: int, x: np.ndarray, y: np.ndarray) -> None:
    """Choroidal vessels shining through (tessellation) and the sheen of the nerve fibres."""
    rng = eye.rng(11)
    tessellation = 0.8 * float(np.clip((-eye.myopia - 3.0) / 8.0, 0.0, 1.0))
    if tessellation > 0.0:
        ribbons = vessels.draw_even(vessels.choroidal(rng), 0.026, eye.camera.view, size)
        ribbons = raster.soften(ribbons, 0.011 * size / 2.0)
        raster.darken(image, tessellation * (1.0 - 0.9 * ribbons), (0.74, 0.50, 0.44))
        raster.blend(image, 0.45 * tessellation * ribbons, (0.95, 0.55, 0.30))
    dx, dy = x - eye.disc[0], y - eye.disc[1]
    distance = np.sqrt(dx * dx + dy * dy)
    angle = np.arctan2(dy, dx)
    # Fibres are thickest above and below the disc, where glaucoma takes them first.
    sheen = (0.35 + np.abs(np.sin(angle))) * np.exp(-((distance / 0.46) ** 2))
    youth = np.clip(1.2 - eye.age / 110.0, 0.2, 1.0)
    sheen *= float(youth * np.clip(1.45 - eye.cup_to_disc, 0.4, 1.0))
    if eye.nerve_fibre_defect is not None:
        turn = np.abs(np.angle(np.exp(1j * (angle - eye.nerve_fibre_defect)))).astype(np.float32)
        wedge = raster.smoothstep(turn, 0.20, 0.06) * np.exp(-((distance / 0.75) ** 4))
        sheen *= 1.0 - wedge
        raster.darken(image, wedge, (0.84, 0.78, 0.76))
    raster.blend(image, 0.28 * sheen, (0.95, 0.78, 0.50))


def _subretinal(eye: Eye, image: np.ndarray, size: int) -> None:
    """Lesions under the retinal vessels: drusen, pigment, atrophy, membranes and their blood."""
    view = eye.camera.view
    for kind in ("patchy_atrophy", "geographic_atrophy"):
        if kind in eye.spots:
            patch = blotch(eye, kind, size)
            ribbons = vessels.draw_even(vessels.choroidal(eye.rng(12)), 0.022, view, size)
            rim = np.clip(patch * (1.0 - patch) * 4.0, 0.0, 1.0)
            raster.blend(image, 0.78 * patch, (0.93, 0.80, 0.56))
            raster.darken(image, 0.6 * patch * ribbons, (0.95, 0.74, 0.58))
            raster.darken(image, (0.7 if kind == "patchy_atrophy" else 0.2) * rim, (0.6, 0.45, 0.4))
    if "drusen" in eye.spots:
        cover = raster.spots(eye.spots["drusen"], view, size, 1.6)
        raster.blend(image, 0.85 * cover, (0.96, 0.82, 0.42))
    if "choroidal_neovascularisation" in eye.spots:
        membrane = raster.spots(eye.spots["choroidal_neovascularisation"], view, size, 2.0)
        raster.blend(image, 0.75 * membrane, (0.62, 0.58, 0.40))
    if "subretinal_haemorrhage" in eye.spots:
        blood = blotch(eye, "subretinal_haemorrhage", size)
        raster.blend(image, 0.85 * blood, (0.40, 0.10, 0.07))
    if "pigment" in eye.spots:
        clumps = raster.spots(eye.spots["pigment"], view, size, 1.3)
        raster.darken(image, 0.8 * clumps, (0.35, 0.28, 0.26))


def blotch(eye: Eye, kind: str, size: int) -> np.ndarray:
    """Lesions of ``kind`` merged into patches with ragged outlines: float32[size, size], 0 to 1."""
    if kind not in eye.spots:
        return np.zeros((size, size), np.float32)
    depth = raster.spots(eye.spots[kind], eye.camera.view, size, 1.5, additive=True)
    depth = depth + 0.13 * np.minimum(depth, 1.0) * raster.noise_field(eye.rng(15), 36, size)
    return 1.0 - raster.smoothstep(depth, 0.42, 0.12)


def disc_distance(eye: Eye, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from the centre of the disc, 1.0 at its margin."""
    return raster.ellipse(x, y, eye.disc, eye.disc_radii, eye.tilt)


def cup_distance(eye: Eye, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from the centre of the cup, 1.0 at its margin.

    The vertical diameter over that of the disc is ``eye.cup_to_disc``; large cups elongate.
    """
    ratio = eye.cup_to_disc
    width = ratio * (0.95 if ratio < 0.5 else 0.86)
    radii = (eye.disc_radii[0] * width, eye.disc_radii[1] * ratio)
    centre = (eye.disc[0] - 0.006, eye.disc[1])
    return raster.ellipse(x, y, centre, radii, eye.tilt)


def crescent_distance(eye: Eye, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance in an ellipse wider than the disc and pushed towards the fovea, 1.0 at its margin.

    What it has beyond the disc is bare sclera, the crescent of peripapillary atrophy.
    """
    centre = (eye.disc[0] - 0.8 * eye.crescent, eye.disc[1])
    radii = (eye.disc_radii[0] + eye.crescent, eye.disc_radii[1] + 0.7 * eye.crescent)
    return raster.ellipse(x, y, centre, radii, eye.tilt)


def _disc(eye: Eye, image: np.ndarray, size: int, x: np.ndarray, y: np.ndarray) -> None:
    pixel = 2.0 / (size * eye.camera.zoom)
    soft = max(0.10, 0.8 * pixel / eye.disc_radii[0])
    if eye.crescent:
        bare = raster.smoothstep(crescent_distance(eye, x, y), 1.0, soft)
        raster.blend(image, 0.85 * bare, (0.95, 0.87, 0.70))
    margin = disc_distance(eye, x, y)
    tone = np.asarray(eye.tone, np.float32)
    rim = 0.35 * tone + 0.65 * np.asarray((1.0, 0.84, 0.50), np.float32)
    rim[0] = 0.98
    raster.blend(image, raster.smoothstep(margin, 1.0, soft), tuple(rim))
    cup = raster.smoothstep(cup_distance(eye, x, y), 1.0, max(0.16, soft / eye.cup_to_disc))
    raster.blend(image, 0.92 * cup, (1.0, 0.96, 0.74))


def _vessels(eye: Eye, image: np.ndarray, size: int) -> None:
    view = eye.camera.view
    raster.darken(image, vessels.draw(eye.veins, view, size), _VEIN)
    raster.darken(image, vessels.draw(eye.arteries, view, size), _ARTERY)
    if len(eye.new_vessels):
        tangle = vessels.draw_even(eye.new_vessels, 0.007, view, size)
        raster.darken(image, tangle, (0.70, 0.25, 0.22))


def _retinal(eye: Eye, image: np.ndarray, size: int) -> None:
    """Lesions in or on the retina, above its vessels."""
    view = eye.camera.view
    if "oedema" in eye.spots:
        pool = raster.spots(eye.spots["oedema"], view, size, 1.5)
        raster.blend(image, 0.16 * pool, (0.85, 0.66, 0.42))
    if "cotton_wool_spots" in eye.spots:
        wool = raster.spots(eye.spots["cotton_wool_spots"], view, size, 1.0)
        raster.blend(image, wool, (0.96, 0.92, 0.80))
    for kind, hardness in (
        ("microaneurysms", 1.5),
        ("haemorrhages", 2.0),
        ("flame_haemorrhages", 1.4),
        ("disc_haemorrhage", 1.4),
    ):
        if kind in eye.spots:
            raster.darken(image, raster.spots(eye.spots[kind], view, size, hardness), _BLOOD)
    if "hard_exudates" in eye.spots:
        cover = raster.spots(eye.spots["hard_exudates"], view, size, 2.0)
        raster.blend(image, 0.9 * cover, (1.0, 0.86, 0.40))
    if "preretinal_haemorrhage" in eye.spots:
        raster.blend(image, preretinal_cover(eye, size), (0.50, 0.08, 0.06))


def preretinal_cover(eye: Eye, size: int) -> np.ndarray:
    """Where preretinal blood is, float32[size, size]: it sinks, so a boat with a flat top."""
    view = eye.camera.view
    boats = eye.spots["preretinal_haemorrhage"]
    cover = raster.spots(boats, view, size, 5.0)
    _, y = view.grid(size)
    level = boats[0, 1] - 0.25 * boats[0, 3]
    return cover * raster.smoothstep(-y, -level, max(0.01, 1.5 / size))


def _expose(eye: Eye, image: np.ndarray, size: int) -> np.ndarray:
    """Light, lens and sensor: from reflectance to the 8-bit photograph."""
    camera = eye.camera
    u, v = raster.axis(size)[None, :], raster.axis(size)[:, None]
    radius = u * u + v * v
    light = 1.0 + camera.gradient[0] * u + camera.gradient[1] * v - 0.55 * camera.vignette * radius
    image *= light * (camera.exposure * np.asarray(camera.cast, np.float32))[:, None, None]
    if camera.glow:
        # Light scattered at the edge of the pupil, brightest on one side.
        du, dv = (0.6 * min(max(4 * value, -1.0), 1.0) for value in camera.gradient)
        side = np.clip(0.75 + du * u + dv * v, 0.0, 1.0)
        raster.blend(image, camera.glow * side * np.clip(radius, 0, 1) ** 4, (0.78, 0.74, 0.55))
    blur = camera.defocus * size / 2.0
    if eye.cataract:
        # A cloudy lens scatters: a yellowish veil, low contrast, and a blur of about its grade.
        veil = (0.0, 0.24, 0.46, 0.64)[eye.cataract]
        cloud = 1.0 + 0.10 * raster.noise_field(eye.rng(13), 4, size)
        raster.blend(image, np.clip(veil * cloud, 0.0, 0.9), (0.62, 0.55, 0.36))
        blur += (0.0, 0.008, 0.019, 0.032)[eye.cataract] * size / 2.0
    pixels = np.clip(image * 255.0, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    if blur > 0.15:
        sharp = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(sharp.filter(ImageFilter.GaussianBlur(blur)))
    grain = eye.rng(14).standard_normal((size, size), dtype=np.float32) * (255 * camera.noise)
    planes = pixels.transpose(2, 0, 1) + grain
    planes *= field_mask(eye, size)
    out = np.clip(planes, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(out if eye.side == "OD" else out[:, ::-1])


def field_mask(eye: Eye, size: int) -> np.ndarray:
    """The circular field of the camera, cropped above and below: float32[size, size] in [0, 1]."""
    u, v = raster.axis(size)[None, :], raster.axis(size)[:, None]
    soft = 1.2 / size
    mask = raster.smoothstep(np.sqrt(u * u + v * v), eye.camera.radius, soft)
    return mask * raster.smoothstep(np.abs(v), eye.camera.crop, soft)
