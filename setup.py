"""configs/ of the checkout is retina_jax/configs in a wheel; all else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["retina_jax*", "data_pipelines*"]), "retina_jax.configs"],
    package_dir={"retina_jax.configs": "configs"},
)
