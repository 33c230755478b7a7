"""LeNet-5 on Fashion-MNIST with 100 labels per class, fine-tuned from one that was trained on MNIST.

    python train.py --config configs/fashion_mnist_few.py --config.init_from=lenet5.npz
    python train.py --config configs/fashion_mnist_few.py                                # from scratch
    python scripts/finetune.py fashion_mnist_few lenet5.npz

The weights are published ones (eshal26/Handwritten-Digits-Recognition, 98.69 % on MNIST).

Test accuracy over the seeds 0 to 2, each with labels of its own: 81.9 % +- 0.3 fine-tuned, 81.6 % +- 0.6 from scratch,
72.8 % +- 0.1 as a probe: what digits teach does not transfer to clothes. 10 s on 2 shared cores of an AMD EPYC (CPU).
"""

from zoo.config import default


def get_config():
    config = default()
    config.model = {"name": "lenet5"}
    config.data.update(name="fashion_mnist", per_class=100, batch_size=100)
    config.optim.update(name="adamw", lr=3e-3, weight_decay=0.05)
    config.schedule.update(name="one_cycle")
    config.total_steps = 600
    config.eval_every_percent = 100
    return config
