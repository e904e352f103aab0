"""Written German to the ways it may be read aloud."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import LETTERS, normalize_text
from training.alignment.spoken_forms import read_roman, year_forms
from training.alignment.spoken_text import TextError, read_slots


def said(text: str) -> list[set[str]]:
    return [{form.letters for form in slot.forms} for slot in read_slots(text)]


def write(text: str) -> str:
    return " ".join(slot.write() for slot in read_slots(text))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("am 07. November 1938", "am siebten November neunzehnhundertachtunddreißig"),
        ("am 25.12.1901, in Wien", "am fünfundzwanzigsten Dezember neunzehnhunderteins, in Wien"),
        ("vom 09. auf den 10. November", "vom neunten auf den zehnten November"),
        ("am 09/10.11.1938", "am neunten auf den zehnten November neunzehnhundertachtunddreißig"),
        ("20% der 171 Gäste", "Zwanzig Prozent der einhunderteinundsiebzig Gäste"),
        ("ca. 30.000 Leute", "circa dreißigtausend Leute"),
        ("über 75 000 Steine (2019).", "über fünfundsiebzigtausend Steine (zweitausendneunzehn)."),
        ("(geb. Katz)", "(geborene Katz)"),
        ("Gegen 2.30 Uhr kam er.", "Gegen zwei Uhr dreißig kam er."),
        ("Das kostet 3,5 Euro, z. B. hier.", "Das kostet drei Komma fünf Euro, zum Beispiel hier."),
        ("Kreuz II. Klasse", "Kreuz zweiter Klasse"),
        ("EK Ⅱ", "EK zwei"),
        ("in den 1980er Jahren", "in den neunzehnhundertachtziger Jahren"),
        ("Blumen - wie immer - am Grab", "Blumen - wie immer - am Grab"),
        ("in Erlangen.1932 wurden", "in Erlangen. Neunzehnhundertzweiunddreißig wurden"),
        ("En\u00adga\u00adge\u00adment", "Engagement"),
        ('"Er sagte ""Ja""."', "Er sagte „Ja“."),
        ("von 1933-1945", "von neunzehnhundertdreiunddreißig bis neunzehnhundertfünfundvierzig"),
        ("im Jahr 1933. Dort", "im Jahr neunzehnhundertdreiunddreißig. Dort"),
        ("im Jahr 7. Er kam", "im Jahr sieben. Er kam"),
        ("Das waren 12.", "Das waren zwölf."),
    ],
)
def test_a_transcript_has_numbers_in_words_and_keeps_case_and_punctuation(text, written):
    assert write(text) == written


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("am 07. Mai", "siebten"), ("am 07. Mai", "siebte"), ("am 25.12.1901", "zwölften"),
        ("am 25.12.1901", "dezember"), ("1938", "eintausendneunhundertachtunddreißig"),
        ("1938", "neunzehnachtndreißig"), ("171", "hunderteinundsiebzig"), ("KZ", "ka zett"), ("KZ", "kz"),
        ("Prof. Herz", "professor"), ("2015", "zwanzigfünfzehn"), ("14:30 Uhr", "halb drei"),
        ("von 1933-1945", "fünfundvierzig"), ("Theaterplatz 4. Gemeinsam", "vier"),
    ],
)  # fmt: skip
def test_other_ways_to_say_it_are_tried(text, letters):
    assert letters in set().union(*said(text))


def test_a_slurred_year_is_written_in_full():
    slurred = [form for form in year_forms(1943) if form.letters == "neunzehndreinvierzig"]
    assert [form.written for form in slurred] == ["neunzehnhundertdreiundvierzig"]
    assert slurred[0].cost > 0


def test_the_way_that_context_suggests_comes_first():
    assert read_slots("am 7. Mai")[1].forms[0].written == "siebten"
    assert read_slots("Ein 7. Sinn")[1].forms[0].written == "siebter"


@pytest.mark.parametrize("text", ["", "   ", "...", "- – !", "（）"])
def test_text_without_words_is_refused(text):
    with pytest.raises(TextError, match="no words"):
        read_slots(text)


@pytest.mark.parametrize("text", ["Привет, как дела", "今日は良い天気です", "Grüße an Иван Петрович Сидоров"])
def test_another_script_is_refused_and_named(text):
    with pytest.raises(TextError, match="another script"):
        read_slots(text)


def test_a_foreign_name_is_no_other_script():
    assert write("Łukasz Dvořák und Björn Øst kamen") == "Łukasz Dvořák und Björn Øst kamen"


@pytest.mark.parametrize(
    ("text", "value"), [("II", 2), ("XIV", 14), ("IX", 9), ("", 0), ("Ab", 0), ("C", 100)]
)
def test_roman_numerals(text, value):
    assert read_roman(text) == value


GERMAN = st.text(st.sampled_from("abcdefgäöüßABCIVXZ0123456789 .,;:/-–()\"'%€&²½٣„“\t\n\u00ad"), max_size=60)


@given(st.one_of(GERMAN, st.text(max_size=40)))
def test_any_text_gives_letters_or_an_error_that_says_why(text):
    try:
        slots = read_slots(text)
    except TextError as error:
        assert error.got and error.want and error.fix
        return
    for slot in slots:
        assert slot.forms
        for form in slot.forms:
            assert form.letters == " ".join(form.letters.split()) != ""
            assert set(form.letters) <= {*LETTERS, " "} and form.cost >= 0


@given(
    st.lists(
        st.sampled_from("Haus im Garten, steht. Und wir (alle) gehen - heute zu Frau Müller".split()),
        min_size=1,
    )
)
def test_words_alone_stay_as_they_are(words):
    text = " ".join(words)
    if normalize_text(text):
        assert normalize_text(write(text)) == normalize_text(text)
