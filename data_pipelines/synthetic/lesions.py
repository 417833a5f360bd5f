"""Where the lesions are: spots drawn from a disease's grade, in unit coordinates of a right eye.

A lesion is a row of float32[N, 6]: x, y, radius along, radius across, angle (radians), strength.
"""

from __future__ import annotations

import numpy as np

Lesions = dict[str, np.ndarray]

# Every kind of spot that an eye may carry; ``report`` has words for each.
KINDS = ("microaneurysms", "haemorrhages", "flame_haemorrhages", "hard_exudates",
         "cotton_wool_spots", "new_vessels_disc", "new_vessels_elsewhere", "preretinal_haemorrhage",
         "drusen", "pigment", "geographic_atrophy", "choroidal_neovascularisation",
         "subretinal_haemorrhage", "disc_haemorrhage", "patchy_atrophy", "oedema",
         "nonperfusion")  # fmt: skip


def rows(
    xy: np.ndarray,
    radius: np.ndarray | float,
    aspect: np.ndarray | float = 1.0,
    angle: np.ndarray | float = 0.0,
    strength: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Pack positions [N, 2], the geometric mean radius, along/across ratio, angle and strength."""
    out = np.empty((len(xy), 6), np.float32)
    out[:, :2] = xy
    root = np.sqrt(aspect)
    out[:, 2], out[:, 3] = radius * root, radius / root
    out[:, 4], out[:, 5] = angle, strength
    return out


def scatter(
    rng: np.random.Generator, count: int, inner: float, outer: float, disc: tuple[float, float]
) -> np.ndarray:
    """Points uniform over a ring round the fovea, none on the optic disc; float[count, 2]."""
    radius = np.sqrt(rng.uniform(inner**2, outer**2, count))
    angle = rng.uniform(0.0, 2 * np.pi, count)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    on_disc = np.linalg.norm(points - disc, axis=1, keepdims=True) < 0.17
    return np.where(on_disc, points - [0.34, 0.0], points)


def diabetic(
    rng: np.random.Generator, grade: int, oedema: int, disc: tuple[float, float]
) -> Lesions:
    """Lesions of diabetic retinopathy by international grade 1-4 and macular oedema 0-2.

    Grade 1 is microaneurysms only; 3 has haemorrhages in all quadrants; 4 adds new vessels
    (Wilkinson et al. 2003, International Clinical Diabetic Retinopathy scale). Oedema 1 spares
    the centre of the macula, 2 involves it.
    """
    out: Lesions = {}
    if grade == 0:
        return out
    count = int(rng.integers(*{1: (4, 10), 2: (10, 20), 3: (20, 34), 4: (16, 32)}[grade]))
    out["microaneurysms"] = rows(
        scatter(rng, count, 0.10, 0.80, disc), rng.uniform(0.011, 0.016, count)
    )
    if grade >= 2:
        low, high = {2: (6, 14), 3: (24, 40), 4: (16, 34)}[grade]
        out.update(_bleeding(rng, int(rng.integers(low, high)), disc))
        wool = int(rng.integers(*{2: (0, 2), 3: (3, 8), 4: (1, 6)}[grade]))
        if wool:
            at = scatter(rng, wool, 0.32, 0.75, disc)
            out["cotton_wool_spots"] = rows(
                at, rng.uniform(0.035, 0.06, wool), 1.5, rng.uniform(0, np.pi, wool), 0.85
            )
    if grade >= 3:
        # Closed capillaries: dark in an angiogram, invisible in a photograph.
        gaps = int(rng.integers(2, 5) + 2 * (grade == 4))
        at = scatter(rng, gaps, 0.45, 0.90, disc)
        out["nonperfusion"] = rows(
            at,
            rng.uniform(0.12, 0.22, gaps),
            rng.uniform(1.0, 1.8, gaps),
            rng.uniform(0, np.pi, gaps),
        )
    if grade == 4:
        out.update(_proliferative(rng, disc))
    exudates = _exudates(rng, grade, oedema, disc, out)
    if exudates is not None:
        out["hard_exudates"] = exudates
    return out


def _bleeding(rng: np.random.Generator, count: int, disc: tuple[float, float]) -> Lesions:
    flames = int(round(count * rng.uniform(0.15, 0.35)))
    dots = count - flames
    blots = rows(
        scatter(rng, dots, 0.16, 0.88, disc),
        rng.choice([0.016, 0.024, 0.036], dots, p=[0.45, 0.4, 0.15]) * rng.uniform(0.8, 1.2, dots),
        rng.uniform(1.0, 1.6, dots),
        rng.uniform(0, np.pi, dots),
        rng.uniform(0.75, 1.0, dots),
    )
    at = scatter(rng, flames, 0.30, 0.85, disc)
    # Flame haemorrhages follow the nerve fibres, which run out of the disc.
    along = np.arctan2(at[:, 1] - disc[1], at[:, 0] - disc[0])
    flame = rows(at, rng.uniform(0.024, 0.038, flames), rng.uniform(2.5, 4.5, flames), along, 0.9)
    return {"haemorrhages": blots, "flame_haemorrhages": flame}


def _proliferative(rng: np.random.Generator, disc: tuple[float, float]) -> Lesions:
    out: Lesions = {}
    at_disc = rng.random() < 0.55
    if at_disc:
        out["new_vessels_disc"] = rows(np.asarray([disc]), rng.uniform(0.15, 0.22, 1))
    if not at_disc or rng.random() < 0.5:
        count = int(rng.integers(1, 4))
        at = scatter(rng, count, 0.45, 0.70, disc)
        out["new_vessels_elsewhere"] = rows(at, rng.uniform(0.09, 0.15, count))
    if rng.random() < 0.45:
        at = scatter(rng, 1, 0.35, 0.55, disc)
        out["preretinal_haemorrhage"] = rows(at, rng.uniform(0.14, 0.24, 1), 1.3, 0.0, 0.95)
    return out


def _deposits(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    count = len(at)
    return rows(
        at,
        rng.choice([0.007, 0.011, 0.017], count),
        rng.uniform(1.0, 1.9, count),
        rng.uniform(0, np.pi, count),
        rng.uniform(0.6, 1.0, count),
    )


def _exudates(
    rng: np.random.Generator, grade: int, oedema: int, disc: tuple[float, float], out: Lesions
) -> np.ndarray | None:
    """Hard exudates: rings round oedema, and clusters elsewhere in moderate disease or worse."""
    groups = []
    if oedema:
        far = 0.06 if oedema == 2 else rng.uniform(0.30, 0.40)
        turn = rng.uniform(0, 2 * np.pi)
        centre = (far * np.cos(turn), far * np.sin(turn))
        size = rng.uniform(0.16, 0.22)
        out["oedema"] = rows(np.asarray([centre]), size)
        count = int(rng.integers(22, 50))
        arc = rng.uniform(0, 2 * np.pi) + rng.uniform(0, rng.uniform(2.5, 6.0), count)
        ring = size * rng.normal(1.0, 0.13, count)
        at = np.stack([ring * np.cos(arc), ring * np.sin(arc)], axis=1) + centre
        groups.append(_deposits(rng, at))
    clusters = int(rng.integers(*{1: (0, 1), 2: (0, 3), 3: (1, 4), 4: (0, 3)}[grade]))
    for centre in scatter(rng, clusters, 0.36, 0.62, disc):
        count = int(rng.integers(8, 24))
        at = centre + rng.normal(0.0, 0.05, (count, 2))
        groups.append(_deposits(rng, at))
    return np.concatenate(groups) if groups else None


def macular_degeneration(rng: np.random.Generator, stage: int, form: str) -> Lesions:
    """Lesions of age-related macular degeneration.

    Args:
        rng: source of randomness.
        stage: 0 none, 1 early (small drusen), 2 intermediate (large drusen, pigment), 3 late.
        form: the form of the late stage, 'atrophic' or 'neovascular'.
    """
    out: Lesions = {}
    if stage == 0:
        return out
    count = int(rng.integers(*{1: (10, 22), 2: (26, 60), 3: (12, 36)}[stage]))
    low, high = {1: (0.013, 0.022), 2: (0.018, 0.048), 3: (0.016, 0.040)}[stage]
    spread = np.abs(rng.normal(0.0, 0.24, count)) + (0.0 if stage < 3 else 0.12)
    turn = rng.uniform(0, 2 * np.pi, count)
    at = np.stack([spread * np.cos(turn), spread * np.sin(turn)], axis=1).clip(-0.5, 0.46)
    out["drusen"] = rows(
        at,
        rng.uniform(low, high, count),
        rng.uniform(1.0, 1.3, count),
        turn,
        rng.uniform(0.55, 0.95, count),
    )
    if stage >= 2:
        clumps = int(rng.integers(4, 12))
        out["pigment"] = rows(
            rng.normal(0.0, 0.14, (clumps, 2)),
            rng.uniform(0.012, 0.03, clumps),
            1.4,
            rng.uniform(0, np.pi, clumps),
            rng.uniform(0.5, 0.9, clumps),
        )
    if stage == 3:
        out.update(_late(rng, form))
    return out


def _late(rng: np.random.Generator, form: str) -> Lesions:
    centre = rng.normal(0.0, 0.035, (1, 2))
    turn = rng.uniform(0, np.pi, 1)
    if form == "atrophic":
        count = int(rng.integers(2, 6))
        lobes = centre + rng.normal(0.0, 0.09, (count, 2))
        lobes[0] = centre
        return {"geographic_atrophy": rows(lobes, rng.uniform(0.08, 0.17, count), 1.2, turn[0])}
    blood = centre + rng.normal(0.0, 0.12, (int(rng.integers(2, 5)), 2))
    return {
        "choroidal_neovascularisation": rows(centre, rng.uniform(0.12, 0.19, 1), 1.2, turn),
        "subretinal_haemorrhage": rows(
            blood, rng.uniform(0.07, 0.14, len(blood)), 1.4, rng.uniform(0, np.pi, len(blood))
        ),
        "oedema": rows(centre, rng.uniform(0.20, 0.26, 1)),
    }


def disc_haemorrhage(rng: np.random.Generator, disc: tuple[float, float], rim: float) -> Lesions:
    """One splinter haemorrhage across the disc margin at distance ``rim`` from its centre."""
    turn = rng.choice([-1.0, 1.0]) * rng.uniform(1.7, 2.5)
    at = np.asarray([[disc[0] + rim * np.cos(turn), disc[1] + rim * np.sin(turn)]])
    return {"disc_haemorrhage": rows(at, 0.022, 4.0, turn, 0.95)}


def myopic_atrophy(rng: np.random.Generator, count: int, disc: tuple[float, float]) -> Lesions:
    """Patches of chorioretinal atrophy of pathologic myopia, each made of overlapping lobes."""
    groups = []
    for centre in scatter(rng, count, 0.12, 0.50, disc):
        lobes = int(rng.integers(2, 5))
        at = centre + rng.normal(0.0, 0.05, (lobes, 2))
        groups.append(rows(at, rng.uniform(0.05, 0.11, lobes), 1.3, rng.uniform(0, 3, lobes)))
    return {"patchy_atrophy": np.concatenate(groups)} if groups else {}
