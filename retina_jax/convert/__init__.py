"""Released weights to ours and back, exactly: python -m retina_jax.convert --help."""
