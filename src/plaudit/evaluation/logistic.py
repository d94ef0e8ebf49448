"""Many small logistic regressions at once: the same features, different weights, as a bootstrap of a fit needs them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from plaudit.evaluation.validation import EvaluationError, FloatArray, IndexArray


@dataclass(frozen=True, slots=True)
class LogisticRegressions:
    """R weighted fractional logistic regressions on the same examples.

    Each minimises sum_n w_n (softplus(x_n beta) - y_n x_n beta) + ridge / 2 |beta|^2, which is strictly convex. For
    targets of 0 and 1 this is scikit-learn's `LogisticRegression(C=1 / ridge, fit_intercept=False)`.

    Attributes:
        features: x, "N D"; a column of ones makes an intercept, which is penalised like the rest.
        targets: y, "N" in [0, 1].
        weights: w, "R N", >= 0.
        ridge: > 0.
    """

    features: FloatArray
    targets: FloatArray
    weights: FloatArray
    ridge: float

    def loss(self, beta: FloatArray) -> FloatArray:
        """What each regression minimises, "R", at coefficients "R D"."""
        logits = beta @ self.features.T
        losses: FloatArray = (self.weights * (np.logaddexp(0.0, logits) - self.targets * logits)).sum(axis=1)
        penalty: FloatArray = self.ridge / 2 * (beta**2).sum(axis=1)
        return losses + penalty

    def newton_step(self, beta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The gradient and Newton's step to subtract, both "R D"."""
        width = self.features.shape[1]
        probability = sigmoid(beta @ self.features.T)
        gradient = (self.weights * (probability - self.targets)) @ self.features + self.ridge * beta
        outer = (self.features[:, :, None] * self.features[:, None, :]).reshape(-1, width * width)
        curvature = (self.weights * probability * (1 - probability)) @ outer
        hessian = curvature.reshape(-1, width, width) + self.ridge * np.eye(width)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        return gradient, step.astype(np.float64, copy=False)

    def only(self, rows: IndexArray) -> LogisticRegressions:
        """Some of the regressions."""
        return replace(self, weights=self.weights[rows])


def fit(regressions: LogisticRegressions, start: FloatArray | None = None) -> FloatArray:
    """The coefficients of each regression, "R D", by Newton's method with step halving from `start` ("D") or zero.

    Raises:
        EvaluationError: 100 steps did not bring a gradient to zero; the features are on wildly different scales.
    """
    beta = np.zeros((len(regressions.weights), regressions.features.shape[1]))
    if start is not None:
        beta += start
    loss = regressions.loss(beta)
    largest = float(np.abs(regressions.features).max())
    tolerance = 1e-9 * np.maximum(1.0, largest * regressions.weights.sum(axis=1))
    todo = np.arange(len(beta))
    for _ in range(100):
        left = regressions.only(todo)
        gradient, step = left.newton_step(beta[todo])
        beta[todo], loss[todo] = _descend(left, beta[todo], step, loss[todo])
        todo = todo[np.abs(gradient).max(axis=1) > tolerance[todo]]
        if not todo.size:
            return beta
    raise EvaluationError(
        f"the logistic fit did not converge in 100 steps for {len(todo)} of {len(beta)} regressions; "
        "check the features, such as the difficulties, for extreme values"
    )


def sigmoid(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow, as (1 + tanh(x / 2)) / 2; exact to 1e-16 in absolute terms."""
    probability: FloatArray = 0.5 + 0.5 * np.tanh(values / 2)
    return probability


def _descend(
    regressions: LogisticRegressions, beta: FloatArray, step: FloatArray, loss: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Take each step, halved until the loss does not rise beyond rounding; coefficients and losses there."""
    slack = 1e-12 * (1 + np.abs(loss))
    size = np.ones((len(beta), 1))
    for _ in range(40):
        moved = beta - size * step
        after = regressions.loss(moved)
        worse = after > loss + slack
        if not worse.any():
            break
        size[worse] /= 2
    return moved, after
