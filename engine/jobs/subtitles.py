"""Subtitles in English: sentences are translated whole, and shared out over the cues that they were in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.jobs.passages import MAX_GAP_S, divide, has_ended, share_out
from engine.output.line_breaks import wrap
from engine.output.subtitle_file import FileCue, SubtitleFile
from engine.types import TranslationHypothesis

_FRAME = re.compile(r"^((?:\{\\[^}]*\}|<[^>]*>|\s)*)(.*?)((?:</[^>]*>|\s)*)$", re.DOTALL)
_DIALOGUE = re.compile(r"^\s*(?:<[^>]*>)?[-–—]\s?\S")

Translate = Callable[[list[str]], list[TranslationHypothesis]]


@dataclass
class _Part:
    """One stretch of text of one cue: a cue, or a speaker's line in it."""

    cue: int
    prefix: str
    german: str
    suffix: str
    english: list[str] = field(default_factory=list)


def translate_subtitles(
    file: SubtitleFile, translate: Translate
) -> tuple[SubtitleFile, list[tuple[int, str]]]:
    """Translate a file; times, names, settings and notes stay.

    Args:
        file: German subtitles.
        translate: German sentences to English ones.
    Returns:
        The file in English, its lines broken anew, and for each warning the line of the cue.
    """
    cues = file.cues
    parts = [part for index, cue in enumerate(cues) for part in _parts(index, cue)]
    texts = [part.german for part in parts]
    sentences = [sentence for run in _runs(parts, cues) for sentence in divide(texts, run)]
    found = translate([sentence.german for sentence in sentences])
    warnings: list[tuple[int, str]] = []
    for sentence, hypothesis in zip(sentences, found, strict=True):
        warnings += [(cues[parts[sentence.shares[0][0]].cue].line, note) for note in hypothesis.warnings]
        tokens = hypothesis.text.split()
        shared = share_out(tokens, [share for _, share in sentence.shares])
        for (owner, _), words in zip(sentence.shares, shared, strict=True):
            parts[owner].english += words
    lines: list[list[str]] = [[] for _ in cues]
    for part in parts:
        lines[part.cue] += _wrapped(part)
    return file.with_lines(lines), warnings


def _parts(index: int, cue: FileCue) -> list[_Part]:
    """One part, or one for each speaker where lines begin with a dash; the frame of tags is kept apart."""
    spoken = [line for line in cue.lines if line.strip()]
    dialogue = len(spoken) > 1 and sum(bool(_DIALOGUE.match(line)) for line in spoken) > 1
    texts = _dialogue(spoken) if dialogue else [" ".join(spoken)]
    found = []
    for text in texts:
        match = _FRAME.match(text)
        assert match is not None
        found.append(_Part(index, match[1].lstrip(), match[2], match[3].rstrip()))
    return found


def _dialogue(lines: Sequence[str]) -> list[str]:
    texts: list[str] = []
    for line in lines:
        if _DIALOGUE.match(line) or not texts:
            texts.append(line)
        else:
            texts[-1] += f" {line}"
    return texts


def _runs(parts: Sequence[_Part], cues: Sequence[FileCue]) -> list[range]:
    """Parts that one sentence may run through, by number."""
    runs, start = [], 0
    for index in range(1, len(parts) + 1):
        if index == len(parts) or not _goes_on(parts[index - 1], parts[index], cues):
            runs.append(range(start, index))
            start = index
    return runs if parts else []


def _goes_on(before: _Part, after: _Part, cues: Sequence[FileCue]) -> bool:
    first, second = cues[before.cue], cues[after.cue]
    apart = before.cue == after.cue or not 0 <= second.start_s - first.end_s <= MAX_GAP_S
    starts_anew = "<v" in after.prefix or _DIALOGUE.match(after.german) is not None
    return not (apart or starts_anew or not before.german or has_ended(before.german))


def _wrapped(part: _Part) -> list[str]:
    lines, done = [], 0
    for count in wrap(tuple(part.english)):
        lines.append(" ".join(part.english[done : done + count]))
        done += count
    if not lines:
        return [part.prefix + part.suffix] if part.prefix or part.suffix else []
    lines[0] = part.prefix + lines[0]
    lines[-1] += part.suffix
    return lines
