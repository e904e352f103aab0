"""Input that a decoder must refuse, with an error that names what is wrong."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from engine.decoding import CtcBeamDecoder, decode_greedy
from engine.decoding.ngram import NgramModel
from engine.errors import DecodingError, HotwordWarning, LanguageModelError
from engine.kernels.ctc.batch import search_several

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
LABELS = ("<pad>", "<s>", "|", "a", "b", "ü")
GOOD = np.full((4, len(LABELS)), -np.log(len(LABELS)), np.float32)
NAMES = ["probing", "trie", "quantised", "array"]


@pytest.mark.parametrize(
    ("emissions", "message"),
    [
        (GOOD[0], "shape"),
        (GOOD[None], "shape"),
        (GOOD[:, :4], "4 tokens"),
        (GOOD.astype(int), "dtype"),
        (GOOD.astype(complex), "dtype"),
        (np.where(GOOD < 0, np.nan, GOOD), "NaN"),
        (np.exp(GOOD), "above 0"),
        (np.full_like(GOOD, np.inf), "above 0"),
        ([["a"]], "dtype"),
    ],
)
def test_emissions_that_cannot_be(emissions, message):
    for decode in (CtcBeamDecoder(LABELS).decode, lambda e: decode_greedy(e, LABELS)):
        with pytest.raises(DecodingError, match=message):
            decode(emissions)


def test_infinite_logits_are_refused():
    logits = GOOD.copy()
    logits[1, 1] = np.inf
    with pytest.raises(DecodingError, match="inf"):
        CtcBeamDecoder(LABELS).decode(logits, logits=True)


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        ((), {}, "no labels"),
        (("a", "a"), {}, "'a' more than once"),
        (("<pad>", 3), {}, "int"),
        (LABELS, {"blank_id": 9}, "blank_id"),
        (LABELS, {"blank_id": -1}, "blank_id"),
        (LABELS, {"word_delimiter": "<pad>"}, "one label"),
        (("<pad>", "|", " ", "a"), {}, "' ' has no letters.*word_delimiter=' '"),
        (("<pad>", "▁der", "e n"), {}, "'e n' holds a space"),
        (("<pad>", "▁der▁", "en"), {}, "'▁der▁' holds a space.*'▁Haus'"),
        (("<pad>", "de", "en</w>"), {}, "'en</w>' ends in </w>"),
        (("<pad>", "de@@", "en"), {}, "'de@@' ends in @@"),
        (("<pad>", "Ġder", "en"), {}, "'Ġder' is bytes"),
        (LABELS, {"beam_width": 0}, "beam_width"),
        (LABELS, {"beam_width": 8.0}, "beam_width"),
        (dict.fromkeys(LABELS, 1), {}, "mapping"),
        (LABELS, {"unigrams": "ab"}, "unigrams"),
        (LABELS, {"frame_s": 0}, "frame_s"),
        (LABELS, {"token_min_logp": None, "beam_prune_logp": "x"}, "token_min_logp.*beam_prune_logp"),
        (LABELS, {"lm_alpha": float("nan")}, "lm_alpha"),
        (LABELS, {"beam_prune_logp": 1.0}, "beam_prune_logp"),
        (LABELS, {"merging": "other", "unit": "word?"}, "merging.*unit"),
    ],
)
def test_settings_that_cannot_be(vocabulary, options, message):
    with pytest.raises(DecodingError, match=message):
        CtcBeamDecoder(vocabulary, **options)


@pytest.mark.parametrize("phrase", ["straße 7", "", "   ", "c", "ab\tc"])
def test_hotwords_that_cannot_be_spelled_are_named_and_left_out(phrase):
    decoder = CtcBeamDecoder(LABELS)
    with pytest.warns(HotwordWarning) as caught:
        found = decoder.decode(GOOD, hotwords=["ab", phrase])
    (warning,) = caught
    assert repr(phrase) in str(warning.message) and "'ab'" not in str(warning.message)
    assert found == decoder.decode(GOOD, hotwords=["ab"])


def test_a_hotword_that_is_no_string_is_an_error():
    with pytest.raises(DecodingError, match="cannot be used: 5"):
        CtcBeamDecoder(LABELS).decode(GOOD, hotwords=["ab", 5])


def test_hotwords_of_wrong_kind():
    decoder = CtcBeamDecoder(LABELS)
    for hotwords in ("ab", b"ab", 5, [["ab"]]):
        with pytest.raises(DecodingError, match=r"hotwords as .*list of words"):
            decoder.decode(GOOD, hotwords=hotwords)
    for weight in (float("nan"), 1e6, float("-inf"), "9", None):
        for arguments in ({"hotwords": {"ab": weight}}, {"hotwords": ["ab"], "hotword_weight": weight}):
            with pytest.raises(DecodingError, match="'ab' with weight"):
                decoder.decode(GOOD, **arguments)
    assert decoder.decode(GOOD, hotwords=["AB Ü"])  # the other case can spell it
    plain = decoder.decode(GOOD, hotwords=["ab", "b"])
    assert decoder.decode(GOOD, hotwords=np.array(["ab", "b"])) == plain
    assert decoder.decode(GOOD, hotwords=None) == decoder.decode(GOOD, hotwords=())


def test_hotwords_without_end_are_refused_before_their_tables_are_built():
    decoder = CtcBeamDecoder(LABELS)
    tracemalloc.start()
    with pytest.raises(DecodingError, match="more than"):
        decoder.decode(GOOD, hotwords=["a" * 1_000_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # 40 MB for the tables of such a word


def test_many_hotwords_that_cannot_be_spelled_are_told_in_few_words():
    decoder = CtcBeamDecoder(LABELS)
    with pytest.warns(HotwordWarning, match="19990 more") as told:
        decoder.decode(GOOD, hotwords=[chr(0x4E00 + i) for i in range(20_000)])
    assert len(str(told[0].message)) < 500


def test_hotwords_given_twice_count_once():
    decoder = CtcBeamDecoder(LABELS)
    once, twice = (decoder.decode(GOOD, hotwords=words) for words in (["ab"], ["ab", "AB", " ab "]))
    assert once == twice
    assert decoder.decode(GOOD, hotwords={"ab": 3, "AB": 10}) == once


def test_hotwords_within_each_other_have_a_limit():
    """Each weight is fine, but the words that end together earn more than a float can hold."""
    decoder = CtcBeamDecoder(LABELS)
    for weight in (100.0, -100.0):
        phrases = {" ".join(["a"] * n): weight for n in range(1, 9)}
        with pytest.raises(DecodingError, match="800 together"):
            decoder.decode(GOOD, hotwords=phrases)
    assert decoder.decode(GOOD, hotwords={" ".join(["a"] * n): 100.0 for n in range(1, 4)})[0].text


@pytest.mark.parametrize("count", [0, -1, 2.5, "2", None])
def test_counts_must_be_positive_and_whole(count):
    decoder = CtcBeamDecoder(LABELS)
    with pytest.raises(DecodingError, match="n_best"):
        decoder.decode(GOOD, n_best=count)
    with pytest.raises(DecodingError, match="n_best"):
        decoder.finish(decoder.start(), n_best=count)
    with pytest.raises(DecodingError, match="threads"):
        decoder.decode_batch([GOOD, GOOD], threads=count)


def test_numbers_of_numpy_are_numbers():
    labels, model = ("<pad>", "|", *"derzug"), FIXTURES / "tiny.arpa"
    emissions = np.full((4, len(labels)), -np.log(len(labels)), np.float32)
    plain = CtcBeamDecoder(labels, model, lm_alpha=0.25, beam_width=9)
    numpys = CtcBeamDecoder(
        labels, model, lm_alpha=np.float32(0.25), beam_width=np.int64(9), frame_s=np.float32(1)
    )
    assert plain.with_settings(frame_s=1).settings == numpys.settings
    assert len(plain.decode(emissions, n_best=10**30)) == len(plain.decode(emissions, n_best=np.int64(9)))
    given = {"beam_width": np.int32(4), "lm_alpha": np.float16(1), "lm_beta": np.int64(2)}
    same = plain.decode(emissions, beam_width=4, lm_alpha=1.0, lm_beta=2.0)
    assert plain.decode(emissions, **given) == same


@pytest.mark.filterwarnings("error")
def test_emissions_of_every_float_type_and_layout_are_alike():
    decoder = CtcBeamDecoder(LABELS)
    rng = np.random.default_rng(2)
    wanted = np.log(rng.dirichlet(np.ones(len(LABELS)), 9)).astype(np.float16).astype(np.float32)
    wanted[4, 3] = -np.inf
    lowest = np.where(np.isinf(wanted), np.finfo(np.float64).min, wanted.astype(np.float64))
    frozen = wanted.copy()
    frozen.setflags(write=False)
    expected = decoder.decode(wanted, n_best=5)
    compiled = list(search_several.signatures)
    for same in (
        *(wanted.astype(kind) for kind in ("float16", "float64", "longdouble", ">f4", "<f8")),
        *(np.asfortranarray(wanted), wanted[::-1].copy()[::-1], np.repeat(wanted, 2, 1)[:, ::2]),
        *(lowest, frozen, wanted.tolist()),
    ):
        assert decoder.decode(same, n_best=5) == expected
    assert search_several.signatures == compiled  # nothing is compiled anew, which takes half a minute


class Tensor:
    """Like a tensor of torch that numpy cannot read."""

    def __array__(self, *_arguments, **_options):
        raise TypeError("Got unsupported ScalarType BFloat16")


@pytest.mark.parametrize("emissions", [Tensor(), [[-1.0], [-1.0, -2.0]]])
def test_emissions_that_numpy_cannot_read(emissions):
    with pytest.raises(DecodingError, match="numpy cannot read"):
        CtcBeamDecoder(LABELS).decode(emissions)


@pytest.mark.parametrize("merging", ["prefix", "pyctcdecode"])
@pytest.mark.parametrize(
    "options",
    [
        {"lm_alpha": 1000.0, "unk_score_offset": -1000.0},
        {"lm_alpha": 1000.0, "lm_beta": 1000.0},
        {"lm_beta": -1000.0},
        {"unk_letter_score": -1000.0},
        {"unk_letter_score": 1000.0, "unk_score_offset": 1000.0, "lm_beta": 1000.0},
        {"unk_score_offset": -1000.0, "lookahead": False},
    ],
)
def test_extreme_weights_leave_a_reading(merging, options):
    """Frames that allow one token only: no other prefix can take the place of one that sinks."""
    labels = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüßé")
    text = "der|q|zug|xqxqx|liegt|a|"
    emissions = np.full((len(text), len(labels)), -np.inf, np.float32)
    emissions[range(len(text)), [labels.index(char) for char in text]] = 0.0
    decoder = CtcBeamDecoder(labels, FIXTURES / "tiny.trie.bin", merging=merging, **options)
    for n_best in (1, 3):
        (hypothesis,) = decoder.decode(emissions, n_best=n_best)
        assert hypothesis.text == text.replace("|", " ").strip()
        assert np.isfinite([hypothesis.acoustic_score, hypothesis.lm_score]).all()


def test_silence_in_every_form_is_empty_text():
    decoder = CtcBeamDecoder(("<pad>", "|", "z", "u", "g"), FIXTURES / "tiny.trie.bin")
    blank = np.full((5, 5), -20.0, np.float32)
    blank[:, 0] = 0.0
    for emissions in (blank, blank[:0], np.full((5, 5), -np.inf, np.float32)):
        for hypothesis in (decoder.decode(emissions)[0], decode_greedy(emissions, decoder.vocabulary)):
            assert hypothesis.text == "" and hypothesis.words == ()


def test_marks_are_never_read():
    emissions = np.full((3, len(LABELS)), -5.0, np.float32)
    emissions[:, 1] = -0.01
    assert CtcBeamDecoder(LABELS).decode(emissions)[0].text in {"", "a", "b", "ü"}
    assert "<s>" not in decode_greedy(emissions, LABELS).text


@pytest.mark.parametrize("name", NAMES)
def test_truncated_models_are_refused_at_any_length(name, tmp_path):
    whole = (FIXTURES / f"tiny.{name}.bin").read_bytes()
    path = tmp_path / "cut.bin"
    strings = whole.rindex(b"<unk>\0")
    for length in [0, 10, 60, 90, 107, 120, 200, strings // 2, strings - 9]:
        path.write_bytes(whole[:length])
        with pytest.raises(LanguageModelError):
            NgramModel(path)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (56, b"\1", "byte order"),
        (88, b"\1", "order 1"),
        (88, b"\7", "order 7"),
        (96, b"\1", "rest_probing"),
        (96, b"\x63", "kind 99"),
        (108, struct.pack("<Q", 2**60), "counts"),
        (49, b"4", "neither|not a language"),
    ],
)
def test_foreign_models_are_refused(offset, value, message, tmp_path):
    data = bytearray((FIXTURES / "tiny.trie.bin").read_bytes())
    data[offset : offset + len(value)] = value
    path = tmp_path / "foreign.bin"
    path.write_bytes(data)
    with pytest.raises(LanguageModelError, match=message):
        NgramModel(path)


@pytest.mark.parametrize("name", NAMES)
def test_overwritten_tables_never_read_outside_the_file(name, tmp_path):
    """Scores of a file with random tables are nonsense, but they are scores."""
    whole = bytearray((FIXTURES / f"tiny.{name}.bin").read_bytes())
    rng = np.random.default_rng(1)
    path = tmp_path / "random.bin"
    for _ in range(20):
        data = whole.copy()
        begin = int(rng.integers(1500, len(data) - 1500))
        data[begin : begin + 400] = rng.bytes(400)
        path.write_bytes(data)
        try:
            model = NgramModel(path)
        except LanguageModelError:
            continue
        for words in (["der", "zug", "liegt"], ["die", "katze", "liegt", "auf", "dem", "sofa"], ["x"]):
            assert len(model.score_words(words)) == len(words) + 1


def test_no_model_and_no_words(tmp_path):
    with pytest.raises(LanguageModelError, match="no language model"):
        NgramModel(tmp_path / "missing.bin")
    with pytest.raises(LanguageModelError):
        NgramModel(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "\\data\\\nngram 1=1\nngram 2=1\n",
        "\\data\\\nngram 1=1\nngram 2=1\n\\1-grams:\nx\ta\n\\2-grams:\n\\end\\\n",
        "\\data\\\nngram 1=1\nngram 2=1\n\\1-grams:\n-1\ta\n\\2-grams:\n-1\ta b\n\\end\\\n",
        "\\data\\\nngram 1=1\nngram 2=1\n\\1-grams:\n-1\ta\n\\3-grams:\n\\end\\\n",
        "\\data\\\nngram 1=1\nngram 2=1\n\\1-grams:\nnan\ta\n\\2-grams:\n\\end\\\n",
        "\\data\\\nngram 1=1\n\\1-grams:\n-1\ta\n\\end\\\n",
        "\\data\\\nngram 1=2\nngram 2=0\n\\1-grams:\n-1\ta\n\\2-grams:\n\\end\\\n",
        "\\data\\\nngram 1=1\nngram 3=0\n\\1-grams:\n-1\ta\n\\2-grams:\n\\end\\\n",
    ],
)
def test_malformed_arpa_files_are_refused(text, tmp_path):
    path = tmp_path / "bad.arpa"
    path.write_text(text)
    with pytest.raises(LanguageModelError):
        NgramModel(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "made by hand\n\n" + text.replace("\\data\\", "\\data\\ "),
        lambda text: text + "\n" * 9,
        lambda text: text.rstrip(),
        lambda text: text.replace("\t", " "),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace("zug", "zug\u00a0und\u2028so\x85weiter\u3000"),
    ],
)
def test_arpa_files_as_other_tools_write_them(change, tmp_path):
    """Only blanks, tabs and ends of lines part words, as for KenLM."""
    plain = (FIXTURES / "tiny.arpa").read_text(encoding="utf-8")
    path = tmp_path / "other.arpa"
    path.write_bytes(change(plain).encode())
    words = NgramModel(FIXTURES / "tiny.arpa").read_vocabulary()
    model = NgramModel(path)
    assert [
        word.replace("\u00a0und\u2028so\x85weiter\u3000", "") for word in model.read_vocabulary()
    ] == words
    assert model.score("die katze liegt") == NgramModel(FIXTURES / "tiny.arpa").score("die katze liegt")


@pytest.mark.parametrize("name", ["tiny.arpa", "tiny.trie.bin"])
def test_models_of_which_no_word_can_be_spelled(name):
    """Every word would be unknown, and nothing else would tell."""
    labels = ("<pad>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜ")
    with pytest.raises(LanguageModelError, match=r"spell none.*case"):
        CtcBeamDecoder(labels, FIXTURES / name)
    with pytest.raises(LanguageModelError, match="spell none, such as 'zug'"):
        CtcBeamDecoder(labels, FIXTURES / name, unigrams=["zug"])
    assert CtcBeamDecoder(labels, FIXTURES / name, unigrams=["zug", "ZUG"])
    assert CtcBeamDecoder(labels, FIXTURES / name, unigrams=[])


def test_lexicons_that_do_not_fit(tmp_path):
    labels = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüßé")
    model = FIXTURES / "tiny.trie.bin"
    path = tmp_path / "lexicon.npz"
    decoder = CtcBeamDecoder(labels, model)
    decoder.save_lexicon(path)
    again = CtcBeamDecoder(labels, model, lexicon=path)
    for name in ("first", "label", "word", "lookahead"):
        assert (getattr(again._trie, name) == getattr(decoder._trie, name)).all()
    with pytest.raises(LanguageModelError, match="labels"):
        CtcBeamDecoder(LABELS, model, lexicon=path)
    whole = path.read_bytes()
    for broken in (b"", b"PK", whole[: len(whole) // 2], b"\0" * 100):
        path.write_bytes(broken)
        with pytest.raises(LanguageModelError):
            CtcBeamDecoder(labels, model, lexicon=path)
    with pytest.raises(LanguageModelError, match="no lexicon"):
        CtcBeamDecoder(labels, model, lexicon=tmp_path / "missing.npz")


def test_lexicons_of_another_file_of_the_same_model_are_refused(tmp_path):
    """A probing file numbers the same words otherwise than a trie."""
    labels = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüßé")
    path = tmp_path / "lexicon.npz"
    CtcBeamDecoder(labels, FIXTURES / "tiny.probing.bin").save_lexicon(path)
    assert CtcBeamDecoder(labels, FIXTURES / "tiny.arpa", lexicon=path)
    for name in ("trie", "quantised", "array"):
        with pytest.raises(LanguageModelError, match="other word ids"):
            CtcBeamDecoder(labels, FIXTURES / f"tiny.{name}.bin", lexicon=path)


def test_damaged_lexicon_arrays_are_refused(tmp_path):
    labels = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüßé")
    model = FIXTURES / "tiny.trie.bin"
    path = tmp_path / "lexicon.npz"
    CtcBeamDecoder(labels, model).save_lexicon(path)
    arrays = dict(np.load(path))
    damage = {
        "n_children": arrays["n_children"] * 0,
        "label": arrays["label"] + 100,
        "ids": arrays["ids"] + 10**6,
        "ends_word": arrays["ends_word"] * 0,
        "lookahead": arrays["lookahead"][:5],
        "meta": arrays["meta"] + 1,
    }
    for name, value in damage.items():
        np.savez(path, **{**arrays, name: value})
        with pytest.raises(LanguageModelError):
            CtcBeamDecoder(labels, model, lexicon=path)


def test_a_word_model_as_one_of_characters_is_refused_when_built(tmp_path):
    path = tmp_path / "words.arpa"
    unigrams = "".join(f"-1\t{word}\t-1\n" for word in ("<unk>", "<s>", "</s>", "baab"))
    bigrams = "-1\t<s> baab\n"
    path.write_text(
        f"\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n{unigrams}\n\\2-grams:\n{bigrams}\n\\end\\\n"
    )
    CtcBeamDecoder(LABELS, path)
    with pytest.raises(LanguageModelError, match="none of the labels"):
        CtcBeamDecoder(LABELS, path, unit="character")
