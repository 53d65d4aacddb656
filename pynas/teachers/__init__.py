"""Teachers: frozen modules whose features at named taps supervise the blocks; named, your own, or trained here."""

from pynas.teachers.named import as_teacher, hf_teacher, named_teacher, torchvision_teacher
from pynas.teachers.pretrained import timm_teacher
from pynas.teachers.small import accuracy, fit_small, load_small, save_small, small, small_like, train_classifier
from pynas.teachers.taps import with_fitting_taps, with_maps
from pynas.teachers.teacher import Teacher

__all__ = [
    "Teacher",
    "accuracy",
    "as_teacher",
    "fit_small",
    "hf_teacher",
    "load_small",
    "named_teacher",
    "save_small",
    "small",
    "small_like",
    "timm_teacher",
    "torchvision_teacher",
    "train_classifier",
    "with_fitting_taps",
    "with_maps",
]
