"""The CTC vocabulary: which labels are text, which one ends a word, and words from token ids."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from engine.decoding.pieces import Spellings, find_delimiter, is_mark, read_spellings
from engine.errors import DecodingError
from engine.kernels.ctc import emissions as ctc_emissions
from engine.kernels.ctc.state import OPENS_WORD
from engine.runtime.arrays import plain_float32

FloatArray = npt.NDArray[np.float32]
NO_TOKEN = -1
MAX_VOCABULARY = 1 << 15  # token ids are held in 16 bits


@dataclass(frozen=True)
class Labels:
    """A checked vocabulary.

    Words are spelled in *letters*: the single characters of which labels consist. Where every label is one
    character, letter and label are the same, also in their numbers.

    Attributes:
        vocabulary: label of each column of the emissions, in Unicode's composed form (NFC).
        blank_id: the CTC blank.
        delimiter_id: the label between words; -1 where the vocabulary has none.
        spoken: uint8 [vocab_size], 1 for the blank, the delimiter and every label that is text, and
            OPENS_WORD for those that begin a word.
        index: token id of each label that is part of words.
        code_points: "<u4" [vocab_size], the character of each label; None where one is longer.
        combining: whether some labels begin with an accent, which texts hold as one with their letter.
        spellings: how labels read that are pieces of words; None where every label is one character.
        letter_index: number of each letter.
    """

    vocabulary: tuple[str, ...]
    blank_id: int
    delimiter_id: int
    spoken: npt.NDArray[np.uint8]
    index: Mapping[str, int]
    code_points: npt.NDArray[np.uint32] | None
    combining: bool
    spellings: Spellings | None
    letter_index: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters by number."""
        return self.spellings.letters if self.spellings else self.vocabulary

    @property
    def texts(self) -> tuple[str, ...]:
        """What each label adds to a word."""
        return self.spellings.texts if self.spellings else self.vocabulary

    @property
    def space(self) -> int:
        """The number of the space between words among letters; -1 where nothing divides words."""
        if self.spellings is None:
            return self.delimiter_id
        return len(self.letters) if self.delimiter_id >= 0 or any(self.spellings.opens) else NO_TOKEN

    @property
    def cased(self) -> bool:
        """Whether words may have capitals and small letters."""
        return any(map(str.islower, self.letter_index)) and any(map(str.isupper, self.letter_index))

    def spell(self, tokens: Iterable[int]) -> str:
        """Join the texts of token ids, of one word."""
        text = "".join([self.texts[token] for token in tokens])
        return compose(text) if self.combining else text

    def spell_words(self, tokens: npt.NDArray[np.int64], ends: Sequence[int]) -> list[str]:
        """The texts of words whose token ids lie one after the other, each up to its end."""
        texts = self._join_words(tokens, ends)
        return [compose(text) for text in texts] if self.combining else texts

    def _join_words(self, tokens: npt.NDArray[np.int64], ends: Sequence[int]) -> list[str]:
        texts, begin = [], 0
        if self.code_points is not None:  # a letter a label: one string, cut into words
            spelled = self.code_points[tokens].tobytes().decode("utf-32-le")
            for end in ends:
                texts.append(spelled[begin:end])
                begin = end
            return texts
        known = self.texts
        pieces = [known[token] for token in tokens.tolist()]
        for end in ends:
            texts.append("".join(pieces[begin:end]))
            begin = end
        return texts

    @property
    def forms(self) -> tuple[Literal["NFC", "NFD"], ...]:
        """Unicode's normal forms in which words may be spelled by letters; the first that works is taken."""
        if self.spellings is not None:
            return ("NFD",) if self.spellings.decomposed else ("NFC",)
        return ("NFC", "NFD") if self.combining else ("NFC",)

    def encode(self, word: str) -> list[int] | None:
        """The letters of one word, composed or not; None if a character is no letter."""
        for form in self.forms:
            spelled = unicodedata.normalize(form, word)
            ids = [self.letter_index.get(char, NO_TOKEN) for char in spelled]
            if ids and NO_TOKEN not in ids:
                return ids
        return None

    def is_letter(self, token: int) -> bool:
        """Whether a token is part of words, rather than blank, delimiter or a mark like <s>."""
        return bool(self.spoken[token]) and token not in (self.blank_id, self.delimiter_id)

    def opens_word(self, token: int) -> bool:
        """Whether a token begins a word."""
        return bool(self.spoken[token] == OPENS_WORD)


class Labelled:
    """A decoder of one vocabulary.

    Attributes:
        labels: the vocabulary, checked.
    """

    labels: Labels

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The label of each token id."""
        return self.labels.vocabulary


def compose(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which letters and words are compared here."""
    return unicodedata.normalize("NFC", text)


def build_labels(vocabulary: Sequence[str], blank_id: int, word_delimiter: str) -> Labels:
    """Check a vocabulary and find its blank, delimiter and silent marks.

    Args:
        vocabulary: label of each token id; the blank's own label is not read.
        blank_id: index of the CTC blank.
        word_delimiter: the label that separates words; may be missing from the vocabulary. A label that can
            be nothing else ("▁" or a space alone) is found without it.
    Raises:
        DecodingError: empty or too large, not strings, a label twice, blank_id outside it, or pieces of words
            in a notation that is not read: see engine.decoding.pieces.
    """
    if isinstance(vocabulary, Mapping):
        fix = "pass sorted(vocabulary, key=vocabulary.get)"
        raise DecodingError("a vocabulary that is a mapping, in any order", "a list of labels", fix)
    labels = tuple(compose(label) if isinstance(label, str) else label for label in vocabulary)
    word_delimiter = compose(word_delimiter)
    problems = _find_problems(labels, blank_id)
    if problems:
        raise DecodingError("a vocabulary with " + "; ".join(problems), "a list of distinct labels")
    delimiter_id = find_delimiter(labels, word_delimiter)
    if delimiter_id == blank_id:
        raise DecodingError(f"word delimiter {labels[blank_id]!r} and blank are one label", "two labels")
    silent = (blank_id, delimiter_id)
    spellings = read_spellings(labels, silent)
    spoken = _mark_spoken(labels, silent, spellings)
    index = {label: i for i, label in enumerate(labels) if spoken[i] and i not in silent}
    code_points, letters = None, index
    if spellings is not None:
        letters = {letter: number for number, letter in enumerate(spellings.letters)}
    else:
        code_points = np.array([ord(label) if label in index else 0 for label in labels], "<u4")
        code_points.setflags(write=False)
    combining = any(unicodedata.combining(letter) for letter in letters)
    return Labels(
        labels, int(blank_id), delimiter_id, spoken, index, code_points, combining, spellings, letters
    )


def _mark_spoken(
    labels: tuple[str, ...], silent: tuple[int, int], spellings: Spellings | None
) -> npt.NDArray[np.uint8]:
    spoken = np.array([not is_mark(label) for label in labels], dtype=np.uint8)
    spoken[[token for token in silent if token != NO_TOKEN]] = 1
    if spellings is not None:
        spoken[np.array(spellings.opens)] = OPENS_WORD
    spoken.setflags(write=False)
    return spoken


def _find_problems(labels: tuple[Any, ...], blank_id: Any) -> list[str]:
    problems = []
    if not labels:
        problems.append("no labels")
    if len(labels) > MAX_VOCABULARY:
        problems.append(f"{len(labels)} labels (at most {MAX_VOCABULARY})")
    wrong = [label for label in labels if not isinstance(label, str)]
    if wrong:
        return [*problems, f"label {wrong[0]!r} of type {type(wrong[0]).__name__}"]
    counts = Counter(label for label in labels if label)
    twice = [label for label, count in counts.items() if count > 1]
    if twice:
        problems.append(f"label {twice[0]!r} more than once")
    if not isinstance(blank_id, int | np.integer) or not 0 <= blank_id < max(len(labels), 1):
        problems.append(f"blank_id {blank_id!r} outside 0 to {len(labels) - 1}")
    return problems


def check_emissions(log_probs: Any, vocab_size: int, *, logits: bool = False) -> FloatArray:
    """Validate one utterance's emissions before any search runs: shape_emissions and check_values."""
    return check_values(shape_emissions(log_probs, vocab_size), logits=logits)


def shape_emissions(log_probs: Any, vocab_size: int) -> FloatArray:
    """Validate what can be told of one utterance's emissions without reading them.

    Args:
        log_probs: floating point [n_frames, vocab_size], natural log; or raw logits.
        vocab_size: the number of labels.
    Returns:
        float32, C-contiguous, writable.
    Raises:
        DecodingError: wrong dtype or shape; the message says which.
    """
    array = read_array(log_probs)
    if array.dtype.kind != "f":
        fix = "pass natural-log probabilities"
        raise DecodingError(f"emissions of dtype {array.dtype}", "floating point", fix)
    if array.ndim != 2:
        want = f"[n_frames, {vocab_size}]"
        raise DecodingError(f"emissions of shape {array.shape}", want, "decode one utterance at a time")
    if array.shape[1] != vocab_size:
        fix = "use the vocabulary the model was trained with"
        raise DecodingError(f"emissions over {array.shape[1]} tokens", f"{vocab_size} labels", fix)
    with np.errstate(over="ignore"):  # the lowest of float64 stands for -inf
        return plain_float32(array)


def read_array(emissions: Any) -> npt.NDArray[Any]:
    """Emissions as numpy reads them.

    Raises:
        DecodingError: ragged lists, or a tensor that only its own library can read.
    """
    try:
        return np.asarray(emissions)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"emissions of type {type(emissions).__name__} that numpy cannot read ({error})"
        fix = "of a torch tensor, pass tensor.detach().float().cpu().numpy()"
        raise DecodingError(got, "a floating point array", fix) from error


def check_values(array: FloatArray, *, logits: bool = False) -> FloatArray:
    """Validate the values of emissions of the right shape.

    Args:
        logits: the values are unnormalised; log-softmax is applied.
    Returns:
        Log probabilities, alike.
    Raises:
        DecodingError: NaN, +inf, or log probabilities above 0.
    """
    fault = ctc_emissions.check_log_probs(array) if array.size else ctc_emissions.FINE
    if not logits:
        return array if fault == ctc_emissions.FINE else refuse_emissions(fault)
    if fault == ctc_emissions.HAS_NAN:
        refuse_emissions(fault)
    if array.size and np.isposinf(array.max()):
        raise DecodingError("logits that contain +inf", "finite numbers or -inf")
    return np.asarray(ctc_emissions.compute_log_softmax(array), np.float32) if array.size else array


def refuse_emissions(fault: int) -> NoReturn:
    """Raise DecodingError for what check_log_probs found."""
    if fault == ctc_emissions.HAS_NAN:
        raise DecodingError("emissions that contain NaN", "numbers", "look at the model's output")
    fix = "pass logits=True for raw model output"
    raise DecodingError("log_probs above 0", "natural-log probabilities", fix)
