"""Layers in numpy, whose params are named as those of our models."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import softmax


def layer_norm(x, params, eps):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)
    return x * params["scale"] + params["bias"]


def batch_norm(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def attention(x, params, bias=0.0):
    """Of x on itself; `bias` is added to the scores of each head."""

    def project(name):
        return np.einsum("btw,whd->bhtd", x, params[name]["kernel"]) + params[name]["bias"][:, None]

    query, key, value = (project(name) for name in ("query", "key", "value"))
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]) + bias
    out = params["out"]
    return np.einsum("bhtd,hdw->btw", softmax(scores, axis=-1) @ value, out["kernel"]) + out["bias"]


def windows(x, size, stride, fill):
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    return sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def conv(x, params, stride=1):
    kernel = params["kernel"]
    return np.einsum("bhwcij,ijco->bhwo", windows(x, kernel.shape[0], stride, 0.0), kernel)
