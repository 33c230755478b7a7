"""The small word language model of Zaremba et al. 2014 on the Penn Treebank (4,651,600 parameters).

    python train.py --config configs/ptb_lstm.py

The paper sums the loss over the steps of a window where we take the mean: its rate of 1 and its gradient norm of 5 are
20 and 0.25 here. Its small network has no dropout and reaches a perplexity of 114.5 on the test set; here it has some,
and the weights that are evaluated are an average. The paper's medium network (82.7): model.width 650, init_scale 0.05,
dropout 0.5, data.length 35, 39 epochs, optim.lr 35, clip_global_norm 0.143, schedule.factor 0.833 from the 7th epoch
on. Large (78.4): 1500, 0.04, 0.65, 35, 55 epochs, 35, 0.286, 0.87 from the 15th.

Test perplexity 98.4 +- 0.1 over the seeds 0 to 2 (mean and standard deviation), 17 to 21 minutes on 2 cores of an AMD
EPYC (CPU) of which other work took a seventh.
"""

from zoo.config import default

EPOCHS, FULL_RATE = 9, 4


def get_config():
    config = default()
    config.model = {"name": "lstm_lm", "width": 200, "depth": 2, "init_scale": 0.1, "dropout": 0.25}
    config.task = {"name": "language_model"}
    config.data.update(name="ptb", batch_size=20, length=20, eval_batch_size=20)
    config.optim.update(name="sgd", lr=20.0, clip_global_norm=0.25)
    config.total_epochs = EPOCHS
    # Halved before every epoch that follows those at the full rate.
    config.schedule.update(name="step", at=tuple(100 * i / EPOCHS for i in range(FULL_RATE, EPOCHS)), factor=0.5)
    config.averaging = {"name": "ema", "decay": 0.999}
    config.log_every_steps = 500
    return config
