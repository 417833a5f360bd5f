"""Losses as pure algebra on arrays: no modules, no batches, no state; everything in float32."""
