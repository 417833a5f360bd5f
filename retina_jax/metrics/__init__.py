"""Figures of merit on numpy arrays, for evaluators."""
