"""Neuronal membranes from two labelled images, by a U-Net that was trained on the vessels of the retina (DRIVE).

    python train.py --config configs/isbi_drive.py --config.init_from=test_best_weights.h5
    python train.py --config configs/isbi_drive.py                                              # from scratch
    python scripts/finetune.py isbi_drive test_best_weights.h5

The weights are published ones (orobix/retina-unet; Keras files need `pip install -e '.[keras]'`), and so is the
network, except for a relu on its logits, which kills some of the runs from scratch. The other 28 images of ISBI 2012
are the test set.

Dice of the membranes over the seeds 0 to 2, each with two images of its own: 71.4 % +- 3.1 fine-tuned, 67.0 % +- 0.2
from scratch. 45 s on 2 shared cores of an AMD EPYC (CPU).
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "unet", "width": 32, "depth": 2, "norm": "none", "up": "nearest", "dropout": 0.2}
    config.task = {"name": "segmentation"}
    # As the weights were trained: on values of 0 to 1.
    config.data.update(name="isbi2012", batch_size=2, eval_batch_size=1, test=28, normalize="minmax")
    config.data.augment.update(flip=0.5, flip_vertical=0.5, transpose=0.5, crop=128, brightness=0.3, contrast=0.5)
    config.optim.update(name="adamw", lr=1e-3, weight_decay=1e-2)
    config.schedule.update(name="one_cycle")
    config.total_steps = 150
    config.eval_every_percent = 100
    return config
