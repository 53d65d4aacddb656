"""A second classifier that learns from a teacher: of the distillation token in a vision transformer (DeiT, section 4)."""

from __future__ import annotations

from torch import Tensor, nn

from pynas.errors import InputError
from pynas.nn.slim_vit import ViTHead
from pynas.nn.transformer import PooledHead


class DistilledHead(nn.Module):
    """Two classifiers of a vision transformer: in training the logits of both, else their mean.

    One classifies the mean of the patches, by the labels. The other learns the teacher's decision: in networks with a token
    beside the patches (AutoFormer's) from that token, which is the distillation token; in those without (DNA's ViTs) from the
    mean of the patches too, as in LeViT (Graham et al., ICCV 2021).

    head: the network's head, whose norm and classifier are taken over.
    """

    def __init__(self, head: PooledHead | ViTHead):
        super().__init__()
        self.norm, self.classifier = head.norm, head.classifier
        self.distillation = nn.Linear(head.classifier.in_features, head.classifier.out_features)
        nn.init.trunc_normal_(self.distillation.weight, std=0.02)
        nn.init.zeros_(self.distillation.bias)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """x: tokens `[B, N, C]` or a map `[B, C, H, W]` -> logits `[B, classes]`, in training (of labels, of the teacher)."""
        if x.ndim == 3:
            tokens = self.norm(x)
            both = self.classifier(tokens[:, 1:].mean(1)), self.distillation(tokens[:, 0])
        else:
            pooled = self.norm(x.mean((2, 3)))
            both = self.classifier(pooled), self.distillation(pooled)
        return both if self.training else (both[0] + both[1]) / 2


def add_distillation(model: nn.Module) -> nn.Module:
    """Give a vision transformer of `subnet` a `DistilledHead`, with fresh weights (torch's generator), in place; return it.

    Raises:
        InputError: another network.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, PooledHead | ViTHead):
        raise InputError("[retrain] expected a vision transformer for a distillation token, got another network; use "
                         "hard or soft distillation")  # fmt: skip
    model.head = DistilledHead(head).train(model.training)
    return model


def class_logits(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Logits that labels train: the output, or the first of two."""
    return output[0] if isinstance(output, tuple) else output


def distilled_logits(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Logits that a teacher trains: the output, or the second of two."""
    return output[1] if isinstance(output, tuple) else output


def is_distilled(model: nn.Module) -> bool:
    """Return whether a network has a `DistilledHead`."""
    return isinstance(getattr(model, "head", None), DistilledHead)
