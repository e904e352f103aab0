"""German text as people say it: letters and single spaces, numbers in words."""

from engine.text.normalize import (
    BLANK,
    LETTERS,
    NORMALIZER,
    VOCABULARY,
    WORD_DELIMITER,
    list_readings,
    normalize_text,
    spell_numbers,
    strip_words,
)

__all__ = [
    "BLANK",
    "LETTERS",
    "NORMALIZER",
    "VOCABULARY",
    "WORD_DELIMITER",
    "list_readings",
    "normalize_text",
    "spell_numbers",
    "strip_words",
]
