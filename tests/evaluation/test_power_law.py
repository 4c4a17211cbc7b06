from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_lessons.evaluation.power_law import _student_quantile, fit_power_law


def test_a_power_law_is_found_and_noise_widens_its_interval():
    x = np.array([0.05, 0.1, 0.2, 0.5, 1.0, 2.0])
    exact = fit_power_law(x, 3 * x**-1.5)
    assert exact.slope == pytest.approx(-1.5) and exact(1.0) == pytest.approx(3)
    assert exact.r_squared == pytest.approx(1) and exact.slope_high == pytest.approx(-1.5)
    assert exact(0.5) == pytest.approx(3 * 0.5**-1.5)
    noise = np.exp(np.random.default_rng(0).normal(size=6) * 0.2)
    noisy = fit_power_law(x, 3 * x**-1.5 * noise)
    assert noisy.slope_low < -1.5 < noisy.slope_high and 0.8 < noisy.r_squared < 1
    # The same line by numpy, its standard error by the covariance that polyfit gives.
    (slope, intercept), covariance = np.polyfit(np.log(x), np.log(3 * x**-1.5 * noise), 1, cov=True)
    assert noisy.slope == pytest.approx(slope) and noisy.intercept == pytest.approx(intercept)
    half_width = (noisy.slope_high - noisy.slope_low) / 2
    assert half_width == pytest.approx(2.776445 * math.sqrt(covariance[0, 0]), rel=1e-4)
    for bad in ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match="fit_power_law: x and y"):
            fit_power_law(bad, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (16, 2.11991)]
)
def test_students_quantile_against_the_tables(degrees, quantile):
    assert _student_quantile(degrees) == pytest.approx(quantile, rel=2e-4)
