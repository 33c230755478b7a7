"""ISBI 2012: cell membranes of the Drosophila larva in electron micrographs (Cardona et al. 2010; Arganda-Carreras
et al. 2015), the first task of the U-Net paper. The labels of its 30 test images were never published.
"""

import pathlib

import numpy as np

from zoo.data import folder
from zoo.errors import UserError, few
from zoo.types import Source


def isbi2012(data_dir: pathlib.Path) -> Source:
    """30 images [512, 512, 1] with label maps, in `data_dir`/isbi2012/train/{image,label}; 0 cell, 1 membrane.

    Rows are in the order of the slices, which lie next to each other in the tissue.
    """
    root = data_dir / "isbi2012" / "train"
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; it must have image/ and label/; ZOO_DATA_DIR is 2 folders above")
    train = folder.pairs({"train": root})["train"]
    grey = np.flatnonzero(np.bincount(train["label"].ravel()))
    if grey.tolist() != [0, 255]:
        raise UserError(f"{root}: the labels are {few(grey)}; they must be 0 (membrane) and 255 (cell)")
    label = (train["label"] == 0).astype(np.uint8)
    return Source({**train, "label": label}, class_names=("cell", "membrane"))
