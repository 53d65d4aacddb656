"""Teachers: frozen modules whose features at named taps supervise the blocks; from timm, your own, or trained here."""

from pynas.teachers.pretrained import as_teacher, timm_teacher
from pynas.teachers.small import accuracy, fit_small, load_small, save_small, small, small_like, train_classifier
from pynas.teachers.taps import with_fitting_taps
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
    "with_fitting_taps",
]
