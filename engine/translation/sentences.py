"""Cut text into pieces that a translation model takes at once: sentences, or clauses of a transcript."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from engine.text.context import stop_ends_sentence

CountTokens = Callable[[Sequence[str]], list[int]]
MAX_WORD_CHARS = 80  # a longer "word" is cut: it is no language at all

# What a full stop may follow without ending a sentence.
ABBREVIATIONS = frozenset(
    (
        "abb abs allg bd betr bspw bzgl bzw ca co dgl dipl dr ehem etc evtl f ff fam fr frl gegr geb"
        " ggf hbf hr hrsg inkl ing jh jr kap kath max mill min mio mrd mr mrs ms nr od o.ä orig pl plz"
        " prof resp s sog st std str tel u u.a usf usw v vgl vol vs z zzgl z.b d.h u.u i.d.r s.o s.u"
        " z.t m.e"
    ).split()
)
_ENDING = re.compile(r"[.!?…]+[\"'”“«»’)\]]*(?=\s)")
_STRONG = re.compile(r"[!?…]")
_LAST_WORD = re.compile(r"([^\s(\"'„“»«]+?)\.$")
# Words that often open a German clause: a transcript without punctuation is cut before one of them.
CLAUSE_OPENERS = frozenset(
    (
        "und aber oder denn sondern doch dann danach deshalb deswegen darum außerdem jedoch trotzdem"
        " weil obwohl während nachdem bevor wenn als dass damit sodass also nun jetzt heute gestern"
        " später zuerst schließlich"
    ).split()
)


def split_sentences(text: str) -> list[str]:
    """Split text after sentence ends; abbreviations, ordinals and initials do not end one,
    an ordinal only where the next word cannot belong to it ("Er kam am 4. Dann ging er.").

    Args:
        text: one line; words separated by spaces.
    Returns:
        Non-empty sentences in order; joined by single spaces they are the text, whitespace aside.
    """
    sentences, start = [], 0
    for match in _ENDING.finditer(text):
        if _ends_sentence(text, start, match):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    following = text[match.end() :].lstrip()[:1]
    if _STRONG.search(match[0]):
        return not following.islower()
    last = _LAST_WORD.search(text[max(start, match.start() - 40) : match.start() + 1])
    word = last[1].lower() if last else ""
    if word.isdecimal():
        return stop_ends_sentence(text, match.start() - len(word), match.start() + 1)
    if word in ABBREVIATIONS or (len(word) == 1 and word.isalpha()):
        return False
    return not following.islower()


def split_to_fit(
    text: str,
    count_tokens: CountTokens,
    max_tokens: int,
    is_copied: Callable[[str], bool] = lambda word: False,
) -> list[str]:
    """Split text into pieces of at most max_tokens tokens.

    Sentences stay whole where they fit. Longer ones, such as a transcript without punctuation,
    are cut before a word that opens a clause, in pieces of like length.

    Args:
        text: any length.
        count_tokens: token counts of several texts.
        max_tokens: at least 8.
        is_copied: whether a long word is copied whole, such as a URL, and not to be cut.
    """
    sentences = split_sentences(" ".join(_bounded_words(text, is_copied)))
    pieces: list[str] = []
    for sentence, tokens in zip(sentences, count_tokens(sentences), strict=True):
        pieces += [sentence] if tokens <= max_tokens else _cut(sentence, count_tokens, max_tokens)
    return pieces


def _bounded_words(text: str, is_copied: Callable[[str], bool]) -> list[str]:
    words = []
    for word in text.split():
        if len(word) > MAX_WORD_CHARS and is_copied(word):
            words.append(word)
            continue
        words += [word[i : i + MAX_WORD_CHARS] for i in range(0, len(word), MAX_WORD_CHARS)]
    return words


def _cut(sentence: str, count_tokens: CountTokens, max_tokens: int) -> list[str]:
    """Greedy from the left: fill a piece, then go back to the best place to end it."""
    words = [part for word in sentence.split() for part in _fit_word(word, count_tokens, max_tokens)]
    sizes = count_tokens(words)
    pieces, start = [], 0
    while start < len(words):
        end = _fill(sizes, start, max_tokens)
        if end < len(words):
            end = _best_cut(words, start, end)
        pieces.append(" ".join(words[start:end]))
        start = end
    return pieces


def _fit_word(word: str, count_tokens: CountTokens, max_tokens: int) -> list[str]:
    """A word, or its halves and quarters where even it is too long (emoji and foreign scripts)."""
    if len(word) < 2 or count_tokens([word])[0] <= max_tokens:
        return [word]
    half = len(word) // 2
    return _fit_word(word[:half], count_tokens, max_tokens) + _fit_word(word[half:], count_tokens, max_tokens)


def _fill(sizes: Sequence[int], start: int, max_tokens: int) -> int:
    total, end = 0, start
    while end < len(sizes) and (end == start or total + sizes[end] <= max_tokens):
        total += sizes[end]
        end += 1
    return end


def _best_cut(words: Sequence[str], start: int, end: int) -> int:
    """The latest good place in the second half of words[start:end]: after a comma, or before an opener."""
    earliest = start + (end - start + 1) // 2
    for at in range(end, earliest, -1):
        if words[at - 1].endswith((",", ";", ":", "-", "–")):
            return at
    for at in range(end, earliest, -1):
        if at < len(words) and words[at].lower() in CLAUSE_OPENERS:
            return at
    return end
