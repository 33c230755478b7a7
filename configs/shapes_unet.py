"""A small U-Net (padded, batch normalization) on drawn discs and rings: segmentation that needs no files.

    python train.py --config configs/shapes_unet.py

Test mean IoU 0.980 +- 0.001 over the seeds 0 to 2 (mean and standard deviation).
20 s on 2 cores of an AMD EPYC (CPU).
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "unet", "width": 12, "depth": 3}
    config.task = {"name": "segmentation"}
    config.data.update(name="shapes", batch_size=16, eval_batch_size=50)
    config.data.augment.update(flip=0.5, flip_vertical=0.5, transpose=0.5)
    config.optim.update(name="adamw", lr=4e-3, weight_decay=1e-2)
    config.schedule.update(name="one_cycle")
    config.total_epochs = 8
    config.eval_every_percent = 25
    return config
