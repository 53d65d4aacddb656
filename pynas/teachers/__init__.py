"""Teachers: any module with named feature taps, one per block; timm names; a small one trained on the spot."""

from pynas.teachers.pretrained import as_teacher, timm_teacher
from pynas.teachers.small import accuracy, fit_small, load_small, save_small, small, small_like, train_classifier
from pynas.teachers.teacher import Teacher

__all__ = [
    "Teacher",
    "accuracy",
    "as_teacher",
    "fit_small",
    "load_small",
    "save_small",
    "small",
    "small_like",
    "timm_teacher",
    "train_classifier",
]
