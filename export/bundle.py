"""Exported parts, put together into the bundle that the runtime loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.bundle.folder import (
    AcousticConfig,
    Bundle,
    DecodingConfig,
    SecondPassConfig,
    TranslationConfig,
    open_bundle,
    write_bundle,
)
from engine.bundle.target import CARD
from engine.output.targets import check_apart
from export.card import render_bundle_card
from export.errors import ExportError

TRANSLATION_CONFIG = "translation.json"
SECOND_PASS = ("asr_memory", "asr_decoder", "asr_embeddings", "asr_tokens")


@dataclass(frozen=True)
class Parts:
    """Where the parts are; None for parts that the bundle does not have.

    Attributes:
        acoustic: a bundle with an acoustic model, and maybe a second pass.
        translation: a folder that `engine-export marian` wrote.
        language_model: KenLM's probing binary. lexicon: the decoder's word list.
        punctuation: a graph that `engine-export punctuation` wrote.
    """

    acoustic: Path | None = None
    translation: Path | None = None
    language_model: Path | None = None
    lexicon: Path | None = None
    punctuation: Path | None = None


def assemble_bundle(
    folder: Path,
    parts: Parts,
    *,
    name: str,
    licence: str,
    decoding: Mapping[str, Any] | None = None,
    second_pass: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | None = None,
    about: str = "",
) -> Path:
    """Write a bundle of everything given.

    Args:
        decoding: fields of DecodingConfig that were tuned for these parts.
        second_pass: fields of SecondPassConfig that were tuned for these parts.
        figures: measured for the whole bundle, with their signatures.
        about: Markdown for the card: data, training, limits.
    Raises:
        ExportError: nothing was given, a part is missing, or a setting is unknown.
        BundleError: a part is damaged. OutputError: a part is, or lies in, the folder that is replaced.
    """
    check_apart([folder], [path for path in vars(parts).values() if path is not None])
    files: dict[str, Path] = {}
    cards: dict[str, str] = {}
    acoustic = decoder = None
    if parts.acoustic:
        acoustic, decoder = _take_acoustic(parts.acoustic, files, cards)
    decoder = _tuned(decoder, second_pass or {})
    translation = _take_translation(parts.translation, files, cards) if parts.translation else None
    for role in ("language_model", "lexicon", "punctuation"):
        path: Path | None = getattr(parts, role)
        if path is not None:
            files[role] = path
    if acoustic is None and translation is None:
        raise ExportError(
            "neither --acoustic nor --translation", "at least one model", "pass an exported folder"
        )
    return write_bundle(
        folder,
        name=name,
        licence=licence,
        files=files,
        acoustic=acoustic,
        decoding=_decoding(decoding or {}),
        translation=translation,
        card=render_bundle_card(name, licence, cards, figures or {}, about),
        figures=figures,
        second_pass=decoder,
    )


def _take_acoustic(
    folder: Path, files: dict[str, Path], cards: dict[str, str]
) -> tuple[AcousticConfig, SecondPassConfig | None]:
    bundle = open_bundle(folder)
    if bundle.manifest.acoustic is None:
        raise ExportError(
            f"{str(folder)!r} has no acoustic model", "what `engine-export ctc` or log-mel wrote"
        )
    roles = SECOND_PASS if bundle.manifest.second_pass else ()
    files |= {role: bundle.file(role) for role in ("acoustic", "vocabulary", *roles)}
    cards["Acoustic model"] = _card(folder)
    return bundle.manifest.acoustic, bundle.manifest.second_pass


def _take_translation(folder: Path, files: dict[str, Path], cards: dict[str, str]) -> TranslationConfig:
    from export.translation.runners import FILES

    try:
        config = msgspec.json.decode((folder / TRANSLATION_CONFIG).read_bytes(), type=TranslationConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ExportError(
            f"{str(folder)!r} has no usable {TRANSLATION_CONFIG} ({error})",
            "a folder that `engine-export marian` wrote",
            "export the translator again",
        ) from error
    files |= {role: folder / name for role, name in FILES.items() if (folder / name).is_file()}
    card = _card(folder)
    if not card:
        card = "```json\n" + json.dumps(config.figures, indent=1, ensure_ascii=False) + "\n```"
    cards["Translation model"] = card
    return config


def _card(folder: Path) -> str:
    path = folder / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _tuned(config: SecondPassConfig | None, fields: Mapping[str, Any]) -> SecondPassConfig | None:
    if config is None and fields:
        raise ExportError(
            "--second-pass", "an acoustic bundle that `engine-export two-pass` wrote", "leave it out"
        )
    try:
        return (
            msgspec.convert({**msgspec.to_builtins(config), **fields}, SecondPassConfig) if config else None
        )
    except msgspec.ValidationError as error:
        raise ExportError(
            f"settings {dict(fields)!r} ({error})", "fields of SecondPassConfig", "correct --second-pass"
        ) from error


def _decoding(fields: Mapping[str, Any]) -> DecodingConfig:
    try:
        return msgspec.convert(dict(fields), DecodingConfig)
    except msgspec.ValidationError as error:
        raise ExportError(
            f"decoding settings {dict(fields)!r} ({error})", "fields of DecodingConfig", "correct --decoding"
        ) from error


def write_again(bundle: Bundle, out: Path, files: Mapping[str, Path]) -> None:
    """Write a bundle with these files, everything else as it was."""
    manifest, card = bundle.manifest, bundle.path / CARD
    write_bundle(
        out,
        name=manifest.name,
        licence=manifest.licence,
        files=files,
        card=card.read_text(encoding="utf-8") if card.is_file() else f"# {manifest.name}\n",
        acoustic=manifest.acoustic,
        decoding=manifest.decoding,
        translation=manifest.translation,
        figures=manifest.figures,
        second_pass=manifest.second_pass,
    )
