"""Checkpoints with an adapter, a head and a vocabulary for each language, as those of MMS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.json_object import read_json

HEAD = "lm_head.weight"
SHOWN = 12  # languages in a message


def adapter_file(folder: Path, language: str) -> Path:
    """Where the adapter of a language is."""
    return folder / f"adapter.{language}.safetensors"


def find_language(folder: Path) -> str | None:
    """The language of a vocab.json that has one for each of several, where there is only one."""
    languages = _languages(folder)
    return languages[0] if len(languages) == 1 else None


def find_adapter_problems(folder: Path, config: dict[str, Any], language: str | None) -> list[str]:
    """What keeps a language from being used; [] where nothing does, or none is asked for."""
    languages = _languages(folder)
    if language is None:
        if not languages:
            return []
        return [f"vocab.json has a vocabulary for each of several languages ({_shown(languages)})"]
    if config.get("adapter_attn_dim") is None:
        return [f"language {language!r} for a checkpoint without adapters"]
    problems = []
    if language not in languages:
        problems.append(f"vocab.json has no vocabulary of language {language!r} ({_shown(languages)})")
    if not adapter_file(folder, language).is_file():
        pickle = adapter_file(folder, language).with_suffix(".bin")
        if pickle.is_file():
            problems.append(f"the adapter only as {pickle.name}: a pickle can run code when it is opened")
        else:
            problems.append(f"no adapter {adapter_file(folder, language).name}")
    return problems


def count_outputs(folder: Path, language: str) -> int:
    """Outputs of the head that comes with an adapter.

    Raises:
        ExportError: the file is no safetensors file, or has no head.
    """
    from safetensors import safe_open

    path = adapter_file(folder, language)
    try:
        with safe_open(path, "np") as tensors:
            return int(tensors.get_slice(HEAD).get_shape()[0])
    except Exception as error:  # safetensors' own error derives from nothing else
        raise ExportError(f"the adapter {path.name} cannot be read ({error})") from error


def load_adapter(model: Any, folder: Path, language: str) -> None:
    """Give a model the adapter and the head of a language.

    Raises:
        ExportError: weights that do not fit the model.
    """
    try:
        model.load_adapter(language, use_safetensors=True, local_files_only=True)
    except Exception as error:  # of transformers, torch and safetensors, without a common base
        raise ExportError(
            f"{adapter_file(folder, language).name} cannot be loaded ({str(error).splitlines()[0]})",
            "an adapter of this checkpoint",
            "download it again",
        ) from error


def _languages(folder: Path) -> list[str]:
    vocabulary = read_json(folder / "vocab.json")
    return [language for language, tokens in vocabulary.items() if isinstance(tokens, dict)]


def _shown(languages: list[str]) -> str:
    more = f" and {len(languages) - SHOWN} more" if len(languages) > SHOWN else ""
    return (", ".join(sorted(languages)[:SHOWN]) + more) if languages else "of one language only"
