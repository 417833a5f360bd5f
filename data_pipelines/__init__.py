"""Retinal corpora as batches of arrays: numpy, Grain and TensorFlow Datasets, without JAX."""
