"""How clients name the language of their recordings."""

from __future__ import annotations

from typing import Final

from engine.errors import OptionError

# What people send, in lower case, with _ as -.
LANGUAGES: Final = ("de", "de-de", "de-at", "de-ch", "de-li", "de-lu", "deu", "ger", "german", "deutsch")
SHOWN: Final = 40  # characters of a wrong value in a message


def check_german(value: str) -> None:
    """Refuse every language but German; an empty value names none.

    Raises:
        OptionError: another language.
    """
    if value and value.lower().replace("_", "-") not in LANGUAGES:
        raise OptionError(
            f"language {value[:SHOWN]!r}", f"German: {', '.join(LANGUAGES)}", "send German speech"
        )
