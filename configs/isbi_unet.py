"""U-Net (Ronneberger et al. 2015) on ISBI 2012: neuronal membranes in 24 training and 6 held-out images of 512x512.

    python train.py --config configs/isbi_unet.py

Pixel accuracy 92.57 +- 0.05 % and Dice of the membranes 0.826 +- 0.002 on the held-out images at full resolution, over
the seeds 0 to 2. 1,600 steps of some 0.4 s on 2 cores, 11 to 16 minutes (the longest beside other work).
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "unet", "width": 16, "depth": 4}
    config.task = {"name": "segmentation", "views": 8}
    config.data.update(name="isbi2012", batch_size=4, eval_batch_size=2, test=6)
    config.data.augment.update(
        flip=0.5, flip_vertical=0.5, transpose=0.5, rotate=15, elastic=6, crop=256, brightness=0.1, contrast=0.2
    )
    config.optim.update(name="adamw", lr=3e-3, weight_decay=1e-2)
    config.schedule.update(name="one_cycle")
    config.total_steps = 1600
    config.eval_every_percent = 25
    config.averaging = {"name": "ema", "decay": 0.99}
    return config
