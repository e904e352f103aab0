"""The part of Whisper's vocabulary that German text needs, and text as its tokens."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from training.whisper.weights import WeightsError

END, START, LANGUAGE, TASK = "<|endoftext|>", "<|startoftranscript|>", "<|de|>", "<|transcribe|>"
NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # its name in newer and older files
NO_TIMESTAMPS = "<|notimestamps|>"
N_SPECIAL = 6  # end, the prompt's four, no speech: the first ids of a vocabulary
BROKEN = "\N{REPLACEMENT CHARACTER}"
MARKS = " .,;:!?-'\"–…()&/%"
LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜéèàáíóçñ"


def open_tokenizer(folder: Path) -> Tokenizer:
    """Open tokenizer.json of a Whisper folder.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    path = folder / "tokenizer.json" if folder.is_dir() else folder.parent / "tokenizer.json"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; a Whisper folder with its tokenizer.json is needed")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise WeightsError(f"{path}: not a tokenizer ({error})") from error


class TokenVocabulary:
    """A part of Whisper's vocabulary: token strings by id, the special ones first.

    Attributes:
        tokens: str by id; a token that begins a word begins with a space; special ones are written <|...|>.
        sources: for each the ids in Whisper's own vocabulary, by id: one, or those that spell it.
    """

    def __init__(self, tokens: Sequence[str], sources: Sequence[Sequence[int]]) -> None:
        self.tokens, self.sources = tuple(tokens), tuple(tuple(ids) for ids in sources)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        self._longest = max(len(token) for token in self.tokens[N_SPECIAL:])

    @property
    def prompt(self) -> tuple[int, ...]:
        """Ids of start, German, transcribe, no timestamps."""
        return (1, 2, 3, 4)

    end_id, no_speech_id = 0, 5

    def encode(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Token ids of a text after a space; missing tokens are spelled by shorter ones.

        Characters that no token has are dropped.
        """
        ids: list[int] = []
        pending: list[int] = []
        for piece in tokenizer.encode(" " + text.strip(), add_special_tokens=False).ids:
            pending.append(piece)
            token = tokenizer.decode(pending)
            if BROKEN in token:  # the first bytes of a character
                continue
            known = self._ids.get(token)
            ids.extend([known] if known is not None else self._spell(token))
            pending = []
        return ids

    def _spell(self, text: str) -> list[int]:
        ids, place = [], 0
        while place < len(text):
            for length in range(min(self._longest, len(text) - place), 0, -1):
                found = self._ids.get(text[place : place + length])
                if found is not None:
                    ids.append(found)
                    place += length
                    break
            else:
                place += 1
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, special ones left out."""
        return "".join(self.tokens[index] for index in ids if index >= N_SPECIAL).strip()

    def save(self, path: Path) -> None:
        """Write tokens and sources as JSON."""
        content = {"tokens": self.tokens, "sources": self.sources}
        path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> TokenVocabulary:
        """Read what `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["tokens"], content["sources"])


def cut_vocabulary(tokenizer: Tokenizer, texts: Iterable[str], min_count: int = 5) -> TokenVocabulary:
    """Choose the tokens that texts use: whole characters only, no digits, and each letter of German.

    Args:
        texts: German sentences. min_count: how often a token must occur in them.
    Returns:
        Special tokens, then single characters, then tokens by falling frequency. Numbers are written as
        words: a decoder without digits writes what was spoken, which letters of CTC can check.
    """
    counts: collections.Counter[int] = collections.Counter()
    for encoding in tokenizer.encode_batch([" " + text for text in texts], add_special_tokens=False):
        counts.update(encoding.ids)
    found = _special_tokens(tokenizer)
    # Whisper spells a few characters in two tokens of one byte each: here each is a token.
    for char in [*MARKS, *LETTERS]:
        found[char] = tokenizer.encode(char, add_special_tokens=False).ids
    for index, count in counts.most_common():
        token = tokenizer.decode([index])
        if count >= min_count and token and _is_plain(token):
            found.setdefault(token, [index])
    return TokenVocabulary(list(found), list(found.values()))


def _special_tokens(tokenizer: Tokenizer) -> dict[str, list[int]]:
    no_speech = next((name for name in NO_SPEECH if tokenizer.token_to_id(name) is not None), NO_SPEECH[0])
    found = {token: tokenizer.token_to_id(token) for token in (END, START, LANGUAGE, TASK, NO_TIMESTAMPS)}
    found[no_speech] = tokenizer.token_to_id(no_speech)
    missing = [token for token, index in found.items() if index is None]
    if missing:
        raise WeightsError(
            f"tokenizer.json has no {missing[0]}; the tokenizer of a multilingual Whisper is needed"
        )
    return {token: [index] for token, index in found.items() if index is not None}


def _is_plain(token: str) -> bool:
    """Whole characters of German writing, without digits."""
    return all(char in MARKS or char in LETTERS for char in token) and token.count(" ") <= 1
