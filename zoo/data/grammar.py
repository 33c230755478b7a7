"""An embedded corpus from a small grammar, so that word vectors have analogies with a known right answer.

Each line of a relation has the two related words and two things that both go with. A sentence fills a template of one
side of the relation with one such word and one such thing: what sets the sides apart is the same for every line, what
sets the lines apart is the same on both sides. So vector(b) - vector(a) is constant within a relation.
"""

import itertools

import numpy as np

from zoo.data import corpus

SENTENCES = 16_000
SEED = 5

# relation -> (templates of the first word, templates of the second word, lines)
RELATIONS = {
    "capital-of": (
        ("the nation of {w} with its president loves {x}", "{x} comes from the country {w} and its provinces"),
        ("the city of {w} with its mayor loves {x}", "{x} comes from the capital {w} and its streets"),
        """france paris wine baguettes,italy rome pasta opera,spain madrid flamenco paella,germany berlin beer sausages
        greece athens olives temples,russia moscow vodka ballet,japan tokyo sushi kimono,china beijing silk dumplings
        egypt cairo pyramids papyrus,cuba havana cigars rumba,norway oslo fjords salmon,poland warsaw pierogi amber
        turkey ankara kebab carpets,india delhi curry sitars,peru lima alpacas ceviche,kenya nairobi safaris tea""",
    ),
    "plural": (
        ("this one {w} has a {x} of its own", "a single {w} was seen beside the {x}"),
        ("these two {w} have a {x} of their own", "many {w} were seen beside the {x}"),
        """cat cats whisker mouse,dog dogs leash bone,horse horses saddle stable,bird birds feather nest
        tree trees branch leaf,car cars engine wheel,ship ships sail harbour,house houses roof chimney
        book books page cover,king kings crown throne,child children toy cradle,foot feet shoe sock
        bee bees hive honey,cook cooks oven apron,farmer farmers barn plough,soldier soldiers sword helmet""",
    ),
    "comparative": (
        ("it is very {w} like any {x}", "how {w} the {x} seemed to us"),
        ("it is much {w} than any {x}", "even {w} than the {x} it became"),
        """big bigger elephant mountain,small smaller ant crumb,fast faster cheetah rocket,slow slower snail turtle
        cold colder ice winter,hot hotter fire desert,old older ruin fossil,young younger puppy bud
        good better gift friend,bad worse plague crime,strong stronger ox steel,weak weaker straw thread
        bright brighter sun lamp,dark darker cave midnight,soft softer pillow wool,hard harder diamond granite""",
    ),
    "past-tense": (
        ("today they {w} the {x} again", "every day you must {w} some {x} now"),
        ("yesterday they {w} the {x} again", "long ago you had {w} some {x} before"),
        """eat ate bread supper,drink drank milk juice,write wrote letter poem,sing sang song hymn
        drive drove truck tractor,throw threw ball dart,build built wall bridge,paint painted portrait fence
        grow grew wheat corn,catch caught fish thief,wear wore dress coat,sell sold goods apples
        find found treasure key,teach taught lesson pupil,break broke window promise,clean cleaned kitchen floor""",
    ),
}


def relations() -> dict[str, list[list[str]]]:
    """Relation -> its lines: the first word, the second word, and the two things."""
    return {
        name: [line.split() for row in rows.splitlines() for line in row.split(",")]
        for name, (_, _, rows) in RELATIONS.items()
    }


def sentences(count: int = SENTENCES, seed: int = SEED) -> list[list[str]]:
    """`count` sentences; relation, line, side, template and thing are drawn uniformly."""
    lines = relations()
    choices = [
        template.format(w=line[side], x=thing).split()
        for name, (first, second, _) in RELATIONS.items()
        for line in lines[name]
        for side, templates in enumerate((first, second))
        for template in templates
        for thing in line[2:]
    ]
    return [choices[i] for i in np.random.default_rng(seed).integers(len(choices), size=count)]


def questions() -> dict[str, list[tuple[str, str, str, str]]]:
    """Relation -> every (a, b, c, d) with a : b = c : d of two different lines."""
    return {
        name: [(*one[:2], *other[:2]) for one, other in itertools.permutations(lines, 2)]
        for name, lines in relations().items()
    }


def load(*, min_count: int = 1, vocab_size: int = 0) -> corpus.Corpus:
    """The corpus with those of its questions whose words are all in the vocabulary."""
    made = corpus.encode(sentences(), min_count=min_count, vocab_size=vocab_size, what="the grammar")
    index = {word: i for i, word in enumerate(made.words)}
    asked = [[index.get(w, -1) for w in question] for rows in questions().values() for question in rows]
    known = np.array([row for row in asked if min(row) >= 0], np.int32).reshape(-1, 4)
    return made._replace(questions=known if len(known) else None)
