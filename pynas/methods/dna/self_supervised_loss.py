"""The loss of DNA++: two projections agree, and neither collapses (section 3.5, eq. 10 and 11)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pynas.checked import NonNegative, Positive, checked
from pynas.errors import InputError


@checked("dna-pp")
@dataclass(frozen=True, kw_only=True)
class SelfSupervisedLoss:
    """Distance, off-diagonal covariance and standard-deviation hinge between projections `[M, C]` of one block.

    distance / (M C) sum_j |z_j - y_j|^2 + covariance / C (|Off-diag(Cov(z))|^2 + |Off-diag(Cov(y))|^2)
    + deviation / C sum_c (hinge(y_c) + hinge(z_c)) / 2,    hinge(x) = max(0, gamma - sqrt(Var(x) + eps))

    y is the teacher's projection, z the student's. The weights are VICReg's, whose distance is a mean over the channels
    too: eq. 10 prints a sum, so its lambda_1 is distance / C. Eq. 11 prints the teacher's hinge alone (both=False): a
    student with a constant output then has no gradient away from it but the distance, and stays constant for long.
    """

    distance: NonNegative = 25.0
    covariance: NonNegative = 1.0
    deviation: NonNegative = 25.0
    gamma: NonNegative = 1.0
    eps: Positive = 1e-4
    both: bool = True

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """student, teacher: `[M, C]` -> a scalar; gradients flow to both.

        Raises:
            InputError: other shapes, or fewer than two samples.
        """
        return self.per_path(student, teacher, 1)[0]

    def per_path(self, outputs: Tensor, target: Tensor, paths: int) -> Tensor:
        """Loss of each of G stacked paths, `[G]`: outputs `[G*M, C]`, path by path, against one target `[M, C]`."""
        if target.ndim != 2 or len(target) < 2 or outputs.shape != (paths * len(target), target.shape[1]):
            raise InputError(f"[dna-pp] expected projections [M, C] of at least two samples, got {list(target.shape)} "
                             f"of the teacher and {list(outputs.shape)} of {paths} path(s)")  # fmt: skip
        students, teacher = outputs.float().unflatten(0, (paths, -1)), target.float()[None]
        loss = self.distance * (students - teacher).square().mean((1, 2))
        loss = loss + self.covariance * (_off_diagonal(students) + _off_diagonal(teacher))
        hinge = self._hinge(teacher)
        if self.both:
            hinge = (hinge + self._hinge(students)) / 2
        return loss + self.deviation * hinge

    def _hinge(self, x: Tensor) -> Tensor:
        return (self.gamma - (x.var(1) + self.eps).sqrt()).relu().mean(1)


def _off_diagonal(x: Tensor) -> Tensor:
    """|Off-diag(Cov(x))|^2 / C of `[G, M, C]` -> `[G]`."""
    x = x - x.mean(1, keepdim=True)
    covariance = x.mT @ x / (x.shape[1] - 1)
    diagonal = torch.diagonal(covariance, dim1=1, dim2=2)
    return (covariance.square().sum((1, 2)) - diagonal.square().sum(1)) / x.shape[2]
