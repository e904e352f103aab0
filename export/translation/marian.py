"""`export marian CHECKPOINT OUT`: a MarianMTModel as encoder and one-step decoder, verified first."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle.schema import TranslationConfig
from engine.errors import TextFileError
from engine.manifests.text_file import read_lines, read_text
from engine.translation.search import EncoderDecoder, padded_length
from engine.translation.tokenizer import Tokenizer
from export.errors import ExportError
from export.graph.builder import OPSET
from export.graph.marian import (
    ACTIVATIONS,
    ActivationRange,
    MarianGraph,
    build_decoder,
    build_encoder,
    calibrate,
)
from export.graph.step_graph import SharedTables
from export.layout.describe import add_layout
from export.quantization.exactness import prove_exact
from export.translation.runners import FILES, open_kernels, open_sessions

logger = logging.getLogger("export")
TOKENIZER_SOURCES = {
    "mt_tokenizer": "source.spm", "mt_tokenizer_target": "target.spm", "mt_vocabulary": "vocab.json",
}  # fmt: skip
MAX_BLEU_LOSS = 0.2
MIN_AGREEMENT = 60.0  # BLEU of the int8 model against the float model's output, where there are no references
PARITY_SENTENCES, PARITY_TOKENS = 24, 40
MAX_CALIBRATION = 200
BATCH = 32
CALIBRATION = (
    "Guten Morgen, wie geht es Ihnen?", "ich habe gestern einen brief von meiner schwester bekommen",
    "Der Zug nach München hat leider zwanzig Minuten Verspätung.", "Wo ist der nächste Bahnhof?",
    "die regierung hat am montag ein neues gesetz vorgelegt", "Er spielt seit drei Jahren Klavier.",
    "Eine Frau mit einem roten Hut steht vor einem alten Haus.", "das ist mir ehrlich gesagt egal",
    "Im Jahr 1998 zog die Familie nach Hamburg.", "kannst du mir bitte das salz geben",
    "Die Ergebnisse der Untersuchung wurden bisher nicht veröffentlicht.", "Zwei Kinder spielen im Garten.",
    "obwohl es regnete sind wir den ganzen tag gewandert", "Danke!", "Sie wurde zur Vorsitzenden gewählt.",
    "Wenn ich mehr Zeit hätte, würde ich öfter ins Theater gehen.",
)  # fmt: skip


@dataclass(frozen=True)
class MarianExport:
    """What was written: files by bundle role, how to run them, and the figures of the checks."""

    folder: Path
    files: Mapping[str, Path]
    config: TranslationConfig
    figures: Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `export marian`."""
    parser.add_argument(
        "checkpoint", help="a folder of save_pretrained, or a hub name such as Helsinki-NLP/opus-mt-de-en"
    )
    parser.add_argument("out", help="the folder to write; replaced only after every check has passed")
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--verify", metavar="TSV", help="id<TAB>German<TAB>English lines for the BLEU check")
    parser.add_argument("--verify_limit", type=int, default=1000, help="how many lines of it, evenly spread")
    parser.add_argument(
        "--score", nargs="*", default=[], metavar="TSV", help="sets that the model card reports"
    )
    parser.add_argument("--about", type=Path, help="Markdown that opens the card: data, licence, limits")


def run(args: argparse.Namespace) -> int:
    """Export; 0, or 1 with the reason in the log."""
    try:
        sources, references = _read_verify(args.verify, args.verify_limit) if args.verify else (None, None)
        export_marian(
            args.checkpoint, args.out, precision=args.precision,
            verify_sources=sources, verify_references=references,
        )  # fmt: skip
        if args.score:
            _write_card(Path(args.out), args.score, args.about)
    except (ExportError, TextFileError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0


def _write_card(out: Path, sets: Sequence[str], about: Path | None) -> None:
    from export.translation.card import open_export, score_sets, write_card

    rows = {Path(path).stem: list(zip(*_read_verify(path, 0), strict=True)) for path in sets}
    with tempfile.TemporaryDirectory() as scratch:
        scores = list(score_sets(open_export(out, Path(scratch) / "bundle"), rows))
    text = read_text(about) if about else f"# {out.name}\n\nGerman to English."
    logger.info("wrote %s", write_card(out, scores, text))


def _read_verify(path: str, limit: int) -> tuple[list[str], list[str]]:
    rows = [line.split("\t") for line in read_lines(path)]
    if not rows or any(len(row) < 3 for row in rows):
        raise ExportError(f"{path} lacks columns", "id<TAB>German<TAB>English lines", "give another file")
    if limit:
        rows = rows[:: max(1, len(rows) // limit)][:limit]
    return [row[1] for row in rows], [row[2] for row in rows]


def export_marian(
    checkpoint: str | Path,
    out_dir: str | Path,
    *,
    precision: str = "int8",
    verify_sources: Sequence[str] | None = None,
    verify_references: Sequence[str] | None = None,
) -> MarianExport:
    """Export a MarianMTModel; nothing is written unless it reproduces transformers' output.

    Args:
        checkpoint: a folder with config.json, model.safetensors, source.spm, target.spm, vocab.json;
            or a hub name.
        out_dir: receives the files of FILES; an existing folder is replaced.
        precision: "int8" (weights and linear layers) or "fp32".
        verify_sources, verify_references: German and English sentences. With references an int8
            model may lose at most 0.2 BLEU; without, its output must resemble the float model's.
            The sources also calibrate the activations.
    Raises:
        ExportError: no Marian model, an unsupported setting, or a failed check.
    """
    out = Path(out_dir)
    _check_out(out)
    folder = _locate(checkpoint)
    model = _load(folder)
    tokenizer = _load_tokenizer(folder)
    sentences = [*CALIBRATION, *(verify_sources or ())][:MAX_CALIBRATION]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        exact = _write(model, Path(scratch) / "fp32", None)
        figures = _verify_parity(model, exact, tokenizer.encode(sentences[:PARITY_SENTENCES]))
        written = exact
        if precision == "int8":
            ranges = calibrate(model, lambda: _generate(model, tokenizer.encode(sentences), beam_size=1))
            texts = list(verify_sources or CALIBRATION)
            written, quality = _quantize(model, ranges, exact, tokenizer, texts, verify_references)
            exact_on = {prove_exact(written.folder / FILES[role]) for role in ("mt_encoder", "mt_decoder")}
            figures |= {**quality, "exact_on": ", ".join(sorted(exact_on))}
        for role, source in TOKENIZER_SOURCES.items():
            shutil.copyfile(folder / source, written.folder / FILES[role])
        _replace(written.folder, out)
    config = _with_figures(written.config, figures)
    (out / "translation.json").write_text(json.dumps(_as_tree(config), indent=2), encoding="utf-8")
    logger.info("wrote %s: %s", out, figures)
    return MarianExport(out, {role: out / name for role, name in FILES.items()}, config, figures)


@dataclass(frozen=True)
class _Written:
    folder: Path
    config: TranslationConfig
    runner: EncoderDecoder


def _locate(checkpoint: str | Path) -> Path:
    """The local folder of a checkpoint; a hub name is downloaded, safetensors only."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        if folder.is_absolute() or str(checkpoint).count("/") != 1:
            raise ExportError(
                f"{checkpoint} is not a folder", "a checkpoint's folder or a hub name", "check the path"
            )
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.spm"]
        folder = Path(snapshot_download(str(checkpoint), allow_patterns=patterns))
    missing = [name for name in ("config.json", *TOKENIZER_SOURCES.values()) if not (folder / name).is_file()]
    if not (folder / "model.safetensors").is_file():
        missing.append("model.safetensors")
    if missing:
        raise ExportError(
            f"{folder} lacks {', '.join(missing)}", "a checkpoint of MarianMTModel.save_pretrained",
            "save it again with safe_serialization=True (weights in pickle files are not read)",
        )  # fmt: skip
    return folder


def _load(folder: Path) -> Any:
    """The model, after a check of everything the graphs rely on; all problems in one error."""
    import torch
    from transformers import AutoConfig, MarianMTModel

    config = AutoConfig.from_pretrained(folder)
    problems = []
    if config.model_type != "marian":
        problems.append(f"model_type {config.model_type!r}")
    elif config.activation_function not in ACTIVATIONS:
        problems.append(f"activation {config.activation_function!r}")
    if getattr(config, "static_position_embeddings", True) is False:
        problems.append("learned positions")
    if problems:
        raise ExportError(
            f"{folder}: {', '.join(problems)}", "a Marian translation model", "export another one"
        )
    model = MarianMTModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    return model.eval()


def _load_tokenizer(folder: Path) -> Tokenizer:
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return Tokenizer((folder / "source.spm").read_bytes(), (folder / "target.spm").read_bytes(), vocabulary)


def banned_tokens(model: Any) -> list[int]:
    """The single tokens of generation_config.bad_words_ids, without padding, which is never taken."""
    banned = model.generation_config.bad_words_ids or []
    return sorted(ids[0] for ids in banned if len(ids) == 1 and ids[0] != model.config.pad_token_id)


def _write(
    model: Any, folder: Path, ranges: Mapping[str, ActivationRange] | None, by_column: bool = False
) -> _Written:
    """Both graphs and their shared tables; float32 when ranges is None."""
    folder.mkdir()
    tables = SharedTables(FILES["mt_embeddings"])
    metadata = {"exporter": "engine-export", "precision": "fp32" if ranges is None else "int8"}
    encoder = build_encoder(MarianGraph(model, tables, ranges, by_column), metadata)
    decoder = build_decoder(MarianGraph(model, tables, ranges, by_column), banned_tokens(model), metadata)
    for role, graph in (("mt_encoder", encoder), ("mt_decoder", decoder)):
        written = add_layout(graph.SerializeToString(), role, {tables.file_name: tables.content()})
        (folder / FILES[role]).write_bytes(written)
    tables.write(folder)
    config = translation_config(model, metadata["precision"])
    return _Written(folder, config, EncoderDecoder(open_sessions(folder, config), config))


def translation_config(model: Any, precision: str) -> TranslationConfig:
    """How the runtime drives the exported model."""
    config, generation = model.config, model.generation_config
    positions = config.max_position_embeddings
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnx")}
    return TranslationConfig(
        decoder_start_id=config.decoder_start_token_id, eos_id=config.eos_token_id,
        pad_id=config.pad_token_id, vocab_size=config.vocab_size, n_layers=config.decoder_layers,
        n_heads=config.decoder_attention_heads, head_dim=config.d_model // config.decoder_attention_heads,
        max_source_tokens=min(128, padded_length(positions - 7)), max_target_tokens=min(256, positions),
        beam_size=generation.num_beams or 4, length_penalty=float(generation.length_penalty or 1.0),
        precision=precision, opset=OPSET, exporter=versions,
    )  # fmt: skip


def _with_figures(config: TranslationConfig, figures: Mapping[str, Any]) -> TranslationConfig:
    import msgspec

    return msgspec.structs.replace(config, figures=dict(figures))


def _as_tree(config: TranslationConfig) -> Any:
    import msgspec

    return msgspec.to_builtins(config)


def _generate(model: Any, sources: Sequence[Sequence[int]], beam_size: int) -> list[tuple[int, ...]]:
    """transformers' own output, sentence by sentence: token ids without start, end and padding."""
    import torch

    eos, outputs = model.config.eos_token_id, []
    for ids in sources:
        generated = model.generate(
            input_ids=torch.tensor([[*ids, eos]]), num_beams=beam_size, do_sample=False, length_penalty=1.0,
            max_new_tokens=PARITY_TOKENS, max_length=None, early_stopping=False, forced_eos_token_id=None,
            bad_words_ids=[[model.config.pad_token_id], *([token] for token in banned_tokens(model))],
        )  # fmt: skip
        outputs.append(
            tuple(t for t in generated[0, 1:].tolist() if t not in (eos, model.config.pad_token_id))
        )
    return outputs


def _verify_parity(model: Any, exact: _Written, sources: Sequence[list[int]]) -> dict[str, Any]:
    """Compare the float graphs with transformers' generate, token by token, greedy and beam 4."""
    eos = model.config.eos_token_id
    for beam_size in (1, 4):
        wanted = _generate(model, sources, beam_size)
        for source, tokens in zip(sources, wanted, strict=True):
            found = exact.runner.generate(
                [[*source, eos]], [PARITY_TOKENS], beam_size=beam_size, length_penalty=1.0
            )[0][0].tokens  # fmt: skip
            if found != tokens:
                raise ExportError(
                    f"with {beam_size} beams the graph gives {found} and transformers {tokens} for {source}",
                    "equal tokens", "report this model: its architecture differs from Marian's",
                )  # fmt: skip
    return {"parity_sentences": len(sources)}


def _quantize(
    model: Any,
    ranges: Mapping[str, ActivationRange],
    exact: _Written,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    references: Sequence[str] | None,
) -> tuple[_Written, dict[str, Any]]:
    """The fastest int8 model that is as good as its float original.

    Raises:
        ExportError: none is.
    """
    import sacrebleu

    wanted = translate(exact.runner, tokenizer, texts)
    target = list(references) if references is not None else wanted
    least = sacrebleu.corpus_bleu(wanted, [target]).score - MAX_BLEU_LOSS if references else MIN_AGREEMENT
    for by_column in (False, True):
        name = "int8_by_column" if by_column else "int8"
        written = _write(model, exact.folder.parent / name, ranges, by_column)
        output = translate(written.runner, tokenizer, texts)
        score = sacrebleu.corpus_bleu(output, [target]).score
        kernels = open_kernels(written.folder, written.config)
        if kernels is not None:  # the engine may run it in either way, so both must be good enough
            output = translate(EncoderDecoder(kernels, written.config), tokenizer, texts)
            score = min(score, sacrebleu.corpus_bleu(output, [target]).score)
        logger.info("%s: BLEU %.2f, at least %.2f wanted", name, score, least)
        if score >= least:
            figures = {
                "weights": name, "dev_sentences": len(texts),
                "int8_agreement_bleu": round(sacrebleu.corpus_bleu(output, [wanted]).score, 2),
            }  # fmt: skip
            if references:
                figures["dev_bleu_int8"] = round(score, 2)
                figures["dev_bleu_fp32"] = round(least + MAX_BLEU_LOSS, 2)
            return written, figures
    raise ExportError(
        f"int8 output has BLEU {score:.2f}",
        f"at least {least:.2f}",
        "export with precision fp32, or verify on more sentences",
    )


def translate(
    runner: EncoderDecoder, tokenizer: Tokenizer, texts: Sequence[str], beam_size: int = 1
) -> list[str]:
    """Translate sentences with exported graphs; texts longer than the model takes are cut off."""
    config = runner.config
    encoded = [[*ids[: config.max_source_tokens - 1], config.eos_id] for ids in tokenizer.encode(texts)]
    outputs = [""] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda i: padded_length(len(encoded[i])))
    widths = np.array([padded_length(len(encoded[i])) for i in order])
    for width in np.unique(widths):
        rows = [order[i] for i in np.flatnonzero(widths == width)]
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            limits = [min(config.max_target_tokens, 2 * len(encoded[i]) + 10) for i in batch]
            found = runner.generate(
                [encoded[i] for i in batch], limits, beam_size=beam_size, length_penalty=config.length_penalty
            )
            for i, hypotheses in zip(batch, found, strict=True):
                outputs[i] = tokenizer.decode(hypotheses[0].tokens)
    return outputs


def _check_out(out: Path) -> None:
    """Refuse to replace a folder that no export wrote."""
    ours = {*FILES.values(), "translation.json", "README.md"}
    if out.is_dir() and any(entry.name not in ours for entry in out.iterdir()):
        raise ExportError(
            f"{out} holds other files", "an empty or earlier export's folder", "choose another one"
        )


def _replace(folder: Path, out: Path) -> None:
    """Put a finished folder in its place at once."""
    _check_out(out)
    if out.is_dir():
        shutil.rmtree(out)
    folder.replace(out)
