"""Wide ResNet-16-8 (10,961,370 parameters) on CIFAR-10 with the schedule of Zagoruyko & Komodakis 2016, section 3.

python train.py --config configs/cifar10_wrn.py
python train.py --config configs/cifar10_wrn.py --config.model.name=wrn28_10     # 36,479,194 parameters

"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "wrn16_8"}
    config.data.update(name="cifar10", batch_size=128)
    config.data.augment.update(shift=4, flip=0.5)
    config.optim.update(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    config.schedule.update(name="step", at=(30, 60, 80), factor=0.2)  # of 200 epochs: 60, 120, 160
    config.total_epochs = 200
    config.eval_every_percent = 5
    return config
