"""The trie of known words against a plain set of strings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decoding.hotwords import build_hotwords
from engine.decoding.labels import build_labels
from engine.decoding.lexicon import build_lexicon, load_lexicon
from engine.decoding.ngram import NgramModel
from engine.errors import LanguageModelError
from engine.kernels.ctc.extend import find_child

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
LABELS = build_labels(("<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß"), 0, "|")


MANY_LABELS = build_labels(("<pad>", "|", *(chr(0x4E00 + i) for i in range(300))), 0, "|")


def follow(trie, word: str, labels=LABELS) -> int:
    node = 0
    nodes, distinct = trie.nodes
    for letter in word:
        node = find_child(nodes, trie.label, distinct, node, labels.index[letter])
    return node


def test_more_labels_than_a_node_has_bits_for():
    """Labels that are a multiple of 64 apart share a bit and have to be told apart by search."""
    letters = MANY_LABELS.vocabulary[2:]
    words = {a + b for a in letters[::7] for b in letters[::5]}
    trie = build_lexicon(MANY_LABELS, None, words)
    assert not trie.nodes[1]
    for first in letters[:70]:
        for second in letters[:140]:
            assert (follow(trie, first + second, MANY_LABELS) >= 0) == (first + second in words)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcü", min_size=1, max_size=6), max_size=25))
def test_trie_holds_exactly_the_beginnings_of_its_words(words):
    trie = build_lexicon(LABELS, None, words)
    beginnings = {word[:n] for word in words for n in range(len(word) + 1)} | {""}
    assert len(trie) == len(beginnings)
    for beginning in beginnings:
        node = follow(trie, beginning)
        assert node >= 0
        for letter in "abcüz":
            assert (follow(trie, beginning + letter) >= 0) == (beginning + letter in beginnings)


def test_word_ids_and_lookahead_are_those_of_the_model():
    model = NgramModel(FIXTURES / "tiny.trie.bin")
    trie = build_lexicon(LABELS, model)
    words = model.read_vocabulary()
    unigrams = dict(zip(words, model.read_unigrams(), strict=True))
    spelled = [word for word in words if LABELS.encode(word)]
    for word in spelled:
        assert words[trie.word[follow(trie, word)]] == word
        below = max(unigrams[other] for other in spelled if other.startswith(word[:2]))
        assert trie.lookahead[follow(trie, word[:2])] / -32 == pytest.approx(below, abs=1 / 60)
    assert (trie.word != 0).sum() == len(spelled)


def test_words_that_the_model_lacks_can_be_spelled_but_stay_unknown():
    trie = build_lexicon(LABELS, NgramModel(FIXTURES / "tiny.trie.bin"), ["zug", "xylophon", "naïf", ""])
    assert trie.word[follow(trie, "zug")] > 0
    assert trie.word[follow(trie, "xylophon")] == 0
    assert follow(trie, "na") == -1


def test_saved_lexicon_is_the_same(tmp_path):
    model = NgramModel(FIXTURES / "tiny.trie.bin")
    trie = build_lexicon(LABELS, model)
    trie.save(tmp_path / "lexicon.npz")
    again = load_lexicon(tmp_path / "lexicon.npz", LABELS, model)
    for name in ("first", "label", "word", "lookahead"):
        assert getattr(again, name).tolist() == getattr(trie, name).tolist()
    smaller = tmp_path / "smaller.arpa"
    smaller.write_text("\\data\\\nngram 1=1\nngram 2=0\n\n\\1-grams:\n-1\ta\n\n\\2-grams:\n\n\\end\\\n")
    with pytest.raises(LanguageModelError, match="words"):
        load_lexicon(tmp_path / "lexicon.npz", LABELS, NgramModel(smaller))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=5),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=6),
)
def test_hotwords_earn_their_weight_wherever_they_occur(phrases, words):
    distinct = sorted({" ".join(phrase) for phrase in phrases})
    automaton = build_hotwords(LABELS, [(phrase, 1.0) for phrase in distinct])
    node, earned = 0, 0.0
    for word in words:
        for letter in word:
            node = int(automaton.follow[node, LABELS.index[letter]]) if node >= 0 else -1
        earned += automaton.complete[node] if node >= 0 else 0.0
        node = int(automaton.follow[node, LABELS.delimiter_id]) if node >= 0 else 0
    expected = sum(
        words[i : i + len(phrase.split())] == phrase.split() for phrase in distinct for i in range(len(words))
    )
    assert earned == pytest.approx(expected)
