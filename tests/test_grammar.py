"""The grammar: its sentences say what its relations claim."""

from collections import Counter

from zoo.data import grammar


def test_every_relation_has_16_lines_of_four_words():
    relations = grammar.relations()
    assert {name: len(lines) for name, lines in relations.items()} == dict.fromkeys(relations, 16)
    assert len(relations) == 4
    words = [word for lines in relations.values() for line in lines for word in line[:2]]
    assert all(len(line) == 4 for lines in relations.values() for line in lines)
    assert len(set(words)) == len(words) == 128  # no word has two roles


def test_questions():
    questions = grammar.questions()
    assert {len(rows) for rows in questions.values()} == {16 * 15}
    assert ("france", "paris", "japan", "tokyo") in questions["capital-of"]
    assert ("foot", "feet", "cat", "cats") in questions["plural"]


def test_both_sides_meet_the_same_things():
    sentences = [set(s) for s in grammar.sentences()]
    seen = Counter((word, thing) for s in sentences for word in s & {"egypt", "cairo"} for thing in s)
    for thing in ("pyramids", "papyrus"):
        assert seen["egypt", thing] > 5
        assert seen["cairo", thing] > 5
    assert not seen["egypt", "wine"]
    assert not seen["egypt", "mayor"]
    assert seen["cairo", "mayor"]


def test_the_corpus_is_always_the_same_and_knows_its_questions():
    made, again = grammar.load(), grammar.load()
    assert (made.token == again.token).all()
    assert made.questions.shape == (960, 4)
    asked = {tuple(made.words[i] for i in row) for row in made.questions}
    assert asked == {question for rows in grammar.questions().values() for question in rows}
    assert len(grammar.load(vocab_size=200).questions) < 960
