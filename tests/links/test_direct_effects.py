"""Direct effects of peaks on genes, compared with scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

from epifoundation.links.direct_effects import direct_effects


@pytest.mark.parametrize("family", ["counts", "binary", "gaussian"])
def test_direct_effects_agree_with_scikit_learn(family):
    rng = np.random.default_rng(0)
    n, k, prior = 4000, 6, 5.0
    x = (rng.random((n, k)) < 0.3).astype(float)
    beta = np.array([0.8, -0.5, 0, 0, 0.3, 0])
    if family == "counts":
        exposure = rng.gamma(2, 0.5, n)
        y = rng.poisson(exposure * np.exp(x @ beta))
        # The penalty of the mean deviance is half of ours: it divides by the sum of the weights
        oracle = PoissonRegressor(alpha=prior / exposure.sum(), tol=1e-10, max_iter=1000)
        expected = oracle.fit(x, y / exposure, sample_weight=exposure).coef_
        found = direct_effects(y, np.log(exposure), x, family, prior)
    elif family == "binary":
        y = (rng.random(n) < 1 / (1 + np.exp(-x @ beta))).astype(float)
        expected = LogisticRegression(C=1 / prior, tol=1e-10, max_iter=1000).fit(x, y).coef_[0]
        found = direct_effects(y, np.zeros(n), x, family, prior)
    else:
        offset = rng.normal(size=n)
        y = offset + x @ beta + rng.normal(size=n)
        # In deviations of the gene, with the variance that the offset leaves
        scale, noise = y.std(), (y - offset).var()
        expected = Ridge(prior * noise / scale**2).fit(x, y - offset).coef_
        found = direct_effects(y, offset, x, family, prior)
    np.testing.assert_allclose(found, expected, atol=2e-3)
