"""Ask, convert, evaluate and draw word vectors.

python scripts/words.py --run=runs/skipgram --pairs=WordSim353.txt --analogies=questions-words.txt
python scripts/words.py --vectors=vectors.bin --positive=king,woman --negative=man
python scripts/words.py --vectors=glove.6B.100d.txt.gz --save=vectors.bin --projector=projector/ --picture=words.png
"""

from absl import flags

from zoo import cli, words
from zoo.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("vectors", None, "The vectors: a file of word2vec (.bin or text) or GloVe, .gz or not.")
flags.DEFINE_string("run", None, "The vectors: those of a run folder.")
flags.DEFINE_integer("limit", None, "Read only the first so many words of --vectors.")
flags.DEFINE_list("positive", [], "Words whose neighbours to list, as in king,woman.")
flags.DEFINE_list("negative", [], "Words to be far from.")
flags.DEFINE_integer("topn", 10, "How many neighbours.")
flags.DEFINE_list("similarity", [], "Two words to compare.")
flags.DEFINE_list("odd", [], "Words of which to name the one that does not match.")
flags.DEFINE_string("pairs", None, "A file of word pairs with scores.")
flags.DEFINE_string("analogies", None, "A file of analogy questions.")
flags.DEFINE_string(
    "save", None, "Write the vectors: .bin, .txt, or GloVe where the name has 'glove'; .gz to compress."
)
flags.DEFINE_string("projector", None, "Write vectors.tsv and metadata.tsv into this folder.")
cli.define_picture("picture", None, "Write a PNG of the words of --draw as points on a plane.")
flags.DEFINE_string("layout", "pca", "How --picture places them: pca (principal components) or tsne.")
flags.DEFINE_list("draw", [], "Words of --picture; default: the 100 most frequent.")


def main(overrides):
    if overrides:
        raise UserError("scripts/words.py has no --config settings")
    if bool(FLAGS.vectors) == bool(FLAGS.run):
        raise UserError("give the vectors: either --vectors=<file> or --run=<folder>")
    if FLAGS.limit is not None and FLAGS.run:
        raise UserError("--limit goes with --vectors")
    for flag in ("draw", "layout"):
        if FLAGS[flag].present and not FLAGS.picture:
            raise UserError(f"--{flag} needs --picture=<file>")
    vectors = words.from_run(FLAGS.run) if FLAGS.run else words.load(FLAGS.vectors, limit=FLAGS.limit)
    print(f"{len(vectors.words):,} words, {vectors.table.shape[1]} features")
    if FLAGS.positive or FLAGS.negative:
        for word, value in words.most_similar(vectors, FLAGS.positive, FLAGS.negative, topn=FLAGS.topn):
            print(f"{value:7.4f}  {word}")
    if FLAGS.similarity:
        if len(FLAGS.similarity) != 2:
            raise UserError(f"--similarity={','.join(FLAGS.similarity)}: it must be two words, as in cat,dog")
        print(f"similarity {words.similarity(vectors, *FLAGS.similarity):.4f}")
    if FLAGS.odd:
        print(f"does not match: {words.doesnt_match(vectors, FLAGS.odd)}")
    if FLAGS.pairs:
        found = words.pairs(vectors, FLAGS.pairs)
        print(", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()))
    if FLAGS.analogies:
        for section, found in words.analogies(vectors, FLAGS.analogies).items():
            counts = f"{found['correct']} of {found['count']}, {found['unknown']} unknown"
            print(f"{section}: accuracy {found['accuracy']:.4f} ({counts})")
    if FLAGS.save:
        words.save(FLAGS.save, vectors)
        print(f"wrote {FLAGS.save}")
    if FLAGS.projector:
        words.projector(FLAGS.projector, vectors)
        print(f"wrote {FLAGS.projector}")
    if FLAGS.picture:
        words.picture(vectors, FLAGS.picture, words=FLAGS.draw, layout=FLAGS.layout)
        print(f"wrote {FLAGS.picture}")


if __name__ == "__main__":
    cli.run(main)
