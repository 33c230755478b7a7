"""Word vectors trained in a process of its own, for `benchmark.py words`: the zoo's or gensim's.

Every call of `train` trains the recipe once more, from the start, with the next seed. Reading the text and making the
vocabulary are not in its seconds. `spearman` evaluates the very vectors that were timed.
"""

import pathlib
import tempfile
import time

from benchmark_worker import ROOT, serve

PAIRS = "wordvec/EN-WS-353-ALL.txt"
TOY_PAIRS = (("france", "italy", 9.0), ("cat", "cats", 8.0), ("paris", "rome", 7.0), ("big", "wine", 1.0))


def files(recipe: str, quick: bool):
    """(config of the recipe, paths of the corpus, path of the word pairs); `quick`: one small text of the grammar."""
    import zoo
    from zoo.data import data_dir, grammar

    config = zoo.config.load(ROOT / "configs" / f"{recipe}.py")
    if not quick:
        folder = data_dir(None)
        return config, [folder / name for name in config.data.name.partition(":")[2].split(",")], folder / PAIRS
    folder = pathlib.Path(tempfile.mkdtemp())
    text, pairs = folder / "grammar.txt", folder / "pairs.txt"
    text.write_text("".join(" ".join(sentence) + "\n" for sentence in grammar.sentences(2_000)))
    pairs.write_text("".join("\t".join(map(str, pair)) + "\n" for pair in TOY_PAIRS))
    config.data.update(name=f"words:{text}", min_count=1, batch_size=2048)
    config.total_epochs = 1
    return config, [text], pairs


def zoo_engine(recipe: str, quick: bool):
    import zoo  # isort: skip  first: it sets up the memory before NumPy starts a thread

    import io

    import numpy as np
    from benchmark_zoo import whole_loop

    from zoo.run import prepare
    from zoo.run_folder import RunFolder

    config, _, pairs = files(recipe, quick)
    trained, first = [], prepare(config)

    def train(runs: int) -> float:
        seconds = 0.0
        for _ in range(runs):
            config.seed = len(trained)
            # Only the data and the state depend on the seed, not the program that the first run has compiled.
            run = first._replace(dataset=prepare(config).dataset)
            with RunFolder(tempfile.mkdtemp()) as folder:
                side = whole_loop(run, folder, io.StringIO())
                seconds += side(run.total_steps)
            params = side.state.params
            trained.append(zoo.words.Vectors(run.dataset.meta["vocab"], np.asarray(params["input"])))
        return seconds

    return {"train": train, "spearman": lambda: [zoo.words.pairs(v, pairs)["spearman"] for v in trained]}


def gensim_engine(recipe: str, quick: bool):
    from benchmark_harness import cpus
    from gensim.models import Word2Vec

    import zoo  # for its reader of texts, its vectors and its evaluation
    from zoo.data import corpus

    config, texts, pairs = files(recipe, quick)
    sentences = [sentence for text in texts for sentence in corpus.sentences(text)]
    trained = []

    def train(runs: int) -> float:
        seconds = 0.0
        for _ in range(runs):
            model = Word2Vec(
                vector_size=config.model.features,
                window=config.task.window,
                negative=config.task.negatives,
                sg=int(recipe == "skipgram"),
                min_count=config.data.min_count,
                sample=config.data.sample,
                seed=len(trained) + 1,
                workers=cpus(),
            )
            model.build_vocab(sentences)
            epochs = int(config.total_epochs)
            started = time.perf_counter()
            model.train(sentences, total_examples=model.corpus_count, epochs=epochs)
            seconds += time.perf_counter() - started
            trained.append(zoo.words.Vectors(tuple(model.wv.index_to_key), model.wv.vectors.copy()))
        return seconds

    return {
        "train": train,
        "spearman": lambda: [zoo.words.pairs(v, pairs)["spearman"] for v in trained],
        "words": lambda: sum(map(len, sentences)) * int(config.total_epochs),
    }


ENGINES = {"zoo": zoo_engine, "gensim": gensim_engine}

if __name__ == "__main__":
    serve(lambda library, recipe, quick: ENGINES[library](recipe, quick))
