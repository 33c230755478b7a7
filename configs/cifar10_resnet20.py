"""ResNet-20 (269,722 parameters) on CIFAR-10, as in He et al. 2015, section 4.2: SGD, pad-and-crop, mirroring.

    python train.py --config configs/cifar10_resnet20.py --config.total_epochs=3    # on a CPU: proof that it learns
    python train.py --config configs/cifar10_resnet20.py                            # the full recipe, for a GPU

3 epochs: test accuracy 76.3 % +- 0.1 over the seeds 0 to 2 (mean and standard deviation), 250 s on 2 cores of an AMD
EPYC (CPU). The full recipe is not measured yet.
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "resnet20_cifar"}
    config.data.update(name="cifar10", batch_size=128)
    config.data.augment.update(shift=4, flip=0.5)
    config.optim.update(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    config.schedule.update(name="cosine", warmup_percent=5)
    config.total_epochs = 160
    config.eval_every_percent = 10
    return config
