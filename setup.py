"""configs/ of the checkout is retina_jax/configs in a wheel; all else is in pyproject.toml."""

from setuptools import find_packages, setup

# It is `configs` there too, for the imports of older config files and notebooks.
names = ["retina_jax.configs", "configs"]
setup(
    packages=[*find_packages(include=["retina_jax*", "data_pipelines*"]), *names],
    package_dir=dict.fromkeys(names, "configs"),
)
