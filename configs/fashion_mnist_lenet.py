"""LeNet-5 (modern: relu, max pooling; 61,706 parameters) on Fashion-MNIST.

    python train.py --config configs/fashion_mnist_lenet.py

Test accuracy 92.45 % +- 0.12 over the seeds 0 to 2 (mean and standard deviation; the averaged weights).
115 s on 2 cores of an AMD EPYC (CPU).
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "lenet5"}
    config.data.update(name="fashion_mnist", batch_size=128)
    config.data.augment.update(flip=0.5, shift=1)
    config.optim.update(name="adamw", lr=3e-3, weight_decay=0.05)
    config.schedule.update(name="one_cycle")
    config.total_epochs = 50
    config.eval_every_percent = 20
    config.averaging = {"name": "ema", "decay": 0.998}
    config.task.label_smoothing = 0.05
    return config
