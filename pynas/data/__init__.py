"""Data: images split for search, augmentation of whole batches, loaders that resume exactly."""

from pynas.data.augment import CropFlip, PerImage, Views
from pynas.data.datasets import Arrays, Folder, Stored
from pynas.data.images import ImageData
from pynas.data.loaders import Loader
from pynas.data.sources import load

__all__ = ["Arrays", "CropFlip", "Folder", "ImageData", "Loader", "PerImage", "Stored", "Views", "load"]
