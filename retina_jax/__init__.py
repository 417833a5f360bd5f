"""Retinal multi-modal foundation models in JAX/Flax.

Importing this package touches no device and imports neither PyTorch nor TensorFlow.
"""

__version__ = "0.1.0"
