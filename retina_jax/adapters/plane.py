"""Features of records in a plane, to look at: their first two principal components."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import numpy as np

Placed = tuple[np.ndarray, tuple[float, float]]


def placed(features: np.ndarray) -> Placed | None:
    """Where records lie along the two directions in which their features vary most.

    Each feature is brought to zero mean and unit variance first. The decomposition is exact and of
    float64, and scikit-learn makes the largest weight of a direction positive, so that neither the
    order of the records nor the machine turns the plane over.

    Args:
      features: f[N F].

    Returns:
      Positions f32[N 2], and the share of the variance along each of both; None for fewer than
      three records, for features that are not finite, and where they vary in less than two ways.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    features = np.asarray(features, np.float64)
    count, width = features.shape
    if count < 3 or width < 2 or not np.isfinite(features).all():
        return None
    even = StandardScaler().fit_transform(features)
    if not even.any():
        return None
    solver = "covariance_eigh" if count > width else "full"
    found = PCA(2, svd_solver=solver, random_state=0).fit(even)
    first, second = map(float, found.explained_variance_ratio_)
    if not second > 1e-9:
        return None
    return found.transform(even).astype(np.float32), (first, second)
