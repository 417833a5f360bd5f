"""Fundus photographs and OCT volumes of the same eye, with CLOOB's loss (Sükei et al., 2023).

As fundus_oct_clip.py, whose docstring says what is needed and what can be changed; only the loss
differs. Both temperatures are fixed, 1 / 30 and 1 / 8, because the loss would drive a learned one
to its bound.

    retina-jax train --config=fundus_oct_cloob          # embedded data, minutes
    retina-jax train --config=fundus_oct_cloob:smoke    # seconds
    retina-jax train --config=fundus_oct_cloob:full --config.data_dir=DIR
"""

import retina_jax
from retina_jax import presets

CLOOB = {"kind": "cloob", "inv_tau": 30.0, "beta": 8.0}


def get_config(variant="demo"):
    """full; demo and smoke on embedded data."""
    config = retina_jax.get_config(f"fundus_oct_clip:{variant}")
    config["model"]["learn_scale"] = False
    config["objectives"] = {"contrastive": presets.contrastive(("image", "oct"), **CLOOB)}
    return config
