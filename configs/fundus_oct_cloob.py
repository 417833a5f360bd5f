"""Fundus photographs and OCT volumes of the same eye, with CLOOB's loss (Sükei et al., 2023).

As `configs/fundus_oct_clip.py`, whose docstring says what is needed and what can be changed; only
the loss differs. Both temperatures are fixed, 1 / 30 and 1 / 8, because the loss would drive a
learned one to its bound.

    python -m retina_jax.main --config=configs/fundus_oct_cloob.py          # embedded data, minutes
    python -m retina_jax.main --config=configs/fundus_oct_cloob.py:smoke    # seconds
    python -m retina_jax.main --config=configs/fundus_oct_cloob.py:full --config.data_dir=DIR
"""

from configs.fundus_oct_clip import variants

CLOOB = {"kind": "cloob", "inv_tau": 30.0, "beta": 8.0}


def get_config(variant: str = "demo"):
    """demo (default), smoke or full."""
    return variants(variant, CLOOB, {"learn_scale": False})
