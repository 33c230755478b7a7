"""LeNet-5 (modern: relu, max pooling; 61,706 parameters) on MNIST.

    python train.py --config configs/mnist_lenet.py

Test accuracy 99.50 % +- 0.03 over the seeds 0 to 2 (mean and standard deviation; the averaged weights).
73 s on 2 cores of an AMD EPYC (CPU).
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "lenet5"}
    config.data.update(name="mnist", batch_size=128)
    config.data.augment.update(rotate=10, zoom=0.1, shift=1)
    config.optim.update(name="adamw", lr=4e-3, weight_decay=0.05)
    config.schedule.update(name="one_cycle")
    config.total_epochs = 30
    config.eval_every_percent = 20
    config.averaging = {"name": "ema", "decay": 0.998}
    config.task.label_smoothing = 0.05
    return config
