"""The search for text in emissions: made emissions whose right answer is known, and a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text import LETTERS
from tests.reference.alignment_reference import best_score, make_emissions
from training.alignment.anchors import AlignmentError, align_long, find_anchors
from training.alignment.lattice import build_lattice
from training.alignment.spoken_forms import Form
from training.alignment.spoken_text import Slot, read_slots
from training.alignment.viterbi import Costs, align_slots

TEXT = "der erste stein wurde hier im garten verlegt und alle kinder haben lange zugesehen"


def align(letters: str, text: str, **options: object):
    slots = read_slots(text)
    return slots, align_slots(make_emissions(letters, **options), build_lattice(slots))


def said(slots, alignment) -> str:
    return " ".join(slots[span.slot].forms[span.form].letters for span in alignment.spans if span.form >= 0)


def test_what_is_said_word_for_word_costs_nothing():
    slots, alignment = align(TEXT, TEXT)
    assert said(slots, alignment) == TEXT and not alignment.foreign
    assert alignment.score == pytest.approx(0.0, abs=1e-3)


def test_words_lie_where_their_letters_are():
    _, alignment = align("das haus", "Das Haus")
    assert [(span.start, span.end) for span in alignment.spans] == [(1, 9), (13, 24)]


@pytest.mark.parametrize("missing", ["der erste", "hier im garten verlegt", "lange zugesehen"])
def test_a_clause_that_was_left_out_is_left_out_and_nothing_else(missing):
    slots, alignment = align(" ".join(TEXT.replace(missing, "").split()), TEXT)
    skipped = " ".join(slots[span.slot].write() for span in alignment.spans if span.form < 0)
    assert skipped == missing and not alignment.foreign


@pytest.mark.parametrize("place", [0, 4, 13])
def test_other_speech_is_passed_over_at_its_place(place):
    words = TEXT.split()
    added = "aber niemand wusste warum"
    letters = " ".join([*words[:place], added, *words[place:]])
    slots, alignment = align(letters, TEXT)
    assert said(slots, alignment) == TEXT
    assert [stretch.boundary for stretch in alignment.foreign] == [place]
    begin = len(make_emissions(" ".join(words[:place])))
    assert abs(alignment.foreign[0].start - begin) < 8


def test_another_word_is_neither_heard_nor_read():
    slots, alignment = align(TEXT.replace("stein", "buchhalter"), TEXT)
    assert [slots[span.slot].write() for span in alignment.spans if span.form < 0] == ["stein"]
    assert len(alignment.foreign) == 1


@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("am siebten november kam er", "am siebten November kam er"),
        ("am siebten elften kam er", "am siebten elften kam er"),
        ("am siebte november kam er", "am siebte November kam er"),
    ],
)
def test_the_form_that_was_said_is_chosen(spoken, written):
    slots, alignment = align(spoken, "am 07.11. kam er")
    chosen = " ".join(slots[span.slot].write(span.form) for span in alignment.spans)
    assert chosen == written


@pytest.mark.parametrize("spoken", ["neunzehnhundertachtunddreißig", "eintausendneunhundertachtunddreißig"])
def test_either_way_to_say_a_year_is_found(spoken):
    slots, alignment = align(f"im jahr {spoken} war", "im Jahr 1938 war")
    assert slots[2].write(alignment.spans[2].form) == spoken


def test_silence_leaves_out_the_whole_text():
    _, alignment = align("....", TEXT)
    assert all(span.form < 0 for span in alignment.spans)


def test_no_frames_leave_out_the_whole_text():
    alignment = align_slots(np.empty((0, 32), np.float32), build_lattice(read_slots(TEXT)))
    assert all(span.form < 0 for span in alignment.spans) and len(alignment.frame_scores) == 0


FORMS = st.text(st.sampled_from("abn "), min_size=1, max_size=4).map(lambda s: " ".join(s.split()) or "a")
SLOTS = st.lists(
    st.lists(st.tuples(FORMS, st.sampled_from([0.0, 1.0])), min_size=1, max_size=3), min_size=1, max_size=4
)


def make_slots(drawn) -> list[Slot]:
    return [Slot(tuple(Form(letters, letters, cost) for letters, cost in forms)) for forms in drawn]


@settings(max_examples=60, deadline=None)
@given(SLOTS, st.integers(0, 14), st.integers(0, 2**32 - 1), st.sampled_from([0.3, 1.0, 4.0]))
def test_the_score_is_that_of_the_slow_twin(drawn, n_frames, seed, price):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 3.0, (n_frames, 2 + len(LETTERS)))
    logits[:, 5:15] -= 6.0
    log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    costs = Costs(price, 2 * price, price / 2, price)
    slots = make_slots(drawn)
    alignment = align_slots(log_probs, build_lattice(slots), costs)
    assert alignment.score == pytest.approx(best_score(log_probs, slots, costs), abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(SLOTS, st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_a_path_is_in_order_and_adds_up_to_its_score(drawn, n_frames, seed):
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.full(2 + len(LETTERS), 0.2), n_frames) + 1e-5).astype(np.float32)
    slots, costs = make_slots(drawn), Costs()
    alignment = align_slots(log_probs, build_lattice(slots), costs)
    assert [span.slot for span in alignment.spans] == list(range(len(slots)))
    edges = [edge for span in alignment.spans for edge in (span.start, span.end)]
    assert edges == sorted(edges) and (not edges or (edges[0] >= 0 and edges[-1] <= n_frames))
    assert all(span.end > span.start for span in alignment.spans if span.form >= 0)
    assert (alignment.frame_scores <= 1e-6).all()
    paid = sum(
        costs.skip_entry + costs.skip * len(slots[span.slot].forms[0].letters.replace(" ", ""))
        if span.form < 0
        else slots[span.slot].forms[span.form].cost
        for span in alignment.spans
    )
    paid += costs.foreign_entry * len(alignment.foreign)
    assert alignment.score == pytest.approx(float(alignment.frame_scores.sum()) - paid, abs=1e-2)


def long_case(n_words: int = 240):
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("abdeghiklmnorstu"), rng.integers(3, 9))) for _ in range(n_words)]
    return read_slots(" ".join(words)), make_emissions(" ".join(words))


def test_a_long_text_split_at_anchors_is_aligned_as_the_whole_is():
    slots, log_probs = long_case()
    whole = align_slots(log_probs, build_lattice(slots))
    parts = align_long(log_probs, slots, good_cells=400_000)
    assert parts.spans == [span._replace(score=pytest.approx(span.score, abs=1e-3)) for span in whole.spans]
    assert parts.score == pytest.approx(whole.score, abs=1e-2)


def test_anchors_are_where_the_words_are():
    slots, log_probs = long_case()
    begins = {span.slot: span.start for span in align_slots(log_probs, build_lattice(slots)).spans}
    anchors = find_anchors(log_probs, slots)
    assert len(anchors) > 100
    assert all(abs(begins[anchor.slot] - anchor.frame) <= 2 for anchor in anchors)


def test_repeated_text_gives_no_anchors():
    text = " ".join(["immer wieder das gleiche"] * 30)
    assert find_anchors(make_emissions(text), read_slots(text)) == []


def test_a_long_recording_of_something_else_is_refused():
    slots, _ = long_case()
    with pytest.raises(AlignmentError, match="no certain match"):
        align_long(make_emissions(TEXT * 5), slots, good_cells=1000, max_cells=2000)
