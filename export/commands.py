"""The commands of `export`: their options, and what they call; only the chosen one imports torch."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.manifests.text_file import read_text

TRAINED_HERE = {"LogMelCTC": "log_mel", "ConformerCTC": "conformer"}  # architecture to module
PRECISIONS = ("int8", "fp16", "fp32")
AUTO_HELP = (
    "; auto builds every int8 graph and fp32, compares each with the checkpoint, times it on this processor "
    "and takes the fastest that passes (takes three to four times as long)"
)
LANGUAGE_HELP = "of the adapter, for a checkpoint with several (MMS: deu, eng ...)"


@dataclass(frozen=True)
class Command:
    """A command: its name, one line of help, and two functions."""

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_acoustic_arguments(parser: argparse.ArgumentParser, tries: bool = False) -> None:
    """The options of every acoustic export; tries: its precision may be found by trying."""
    parser.add_argument("checkpoint", help="folder (or, for ctc, a hub name) of the checkpoint")
    parser.add_argument("out", type=Path, help="folder of the bundle; an existing bundle is replaced")
    parser.add_argument(
        "--precision",
        choices=(*PRECISIONS, "auto") if tries else PRECISIONS,
        default="int8",
        help=f"fp16 is for CUDA{AUTO_HELP if tries else ''}",
    )
    parser.add_argument(
        "--no-sensitivity",
        dest="sensitivity",
        action="store_false",
        help="do not measure the error that int8 causes in each block (of more than 200 million weights only "
        "if int8 of all is refused)",
    )
    parser.add_argument(
        "--keep", nargs="*", default=[], help="blocks to keep in float32, by prefix: layer_0 stem"
    )
    _add_check_arguments(parser)
    parser.add_argument(
        "--max-wer-loss", type=float, default=0.003, help="largest rise of the word error rate (0.003)"
    )
    parser.add_argument("--licence", help="of the weights; the checkpoint's own when not given")


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verify-data",
        type=Path,
        help="manifest (path, text_de) to compare on (default: artificial signals like speech)",
    )
    parser.add_argument(
        "--min-agreement", type=float, help="refuse below this share of frames with the same argmax"
    )
    parser.add_argument(
        "--no-batches",
        dest="batches",
        action="store_false",
        help="do not compare utterances in batches "
        "(those of models of more than 480 million weights never are)",
    )
    parser.add_argument(
        "--allow-slower", action="store_true", help="accept a graph that is slower than float32 here"
    )


def add_pretrained_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `ctc`."""
    add_acoustic_arguments(parser, tries=True)
    parser.add_argument("--language", help=LANGUAGE_HELP)


def run_pretrained(options: argparse.Namespace) -> int:
    """Export a CTC checkpoint in Hugging Face form."""
    from export.acoustic.pretrained import export_pretrained

    report = export_pretrained(options.checkpoint, options.out, _acoustic_options(options), options.language)
    return _report(report, options.out)


def run_log_mel(options: argparse.Namespace) -> int:
    """Export a LogMelCTC."""
    from export.acoustic.log_mel import export_log_mel

    report = export_log_mel(Path(options.checkpoint), options.out, _acoustic_options(options))
    return _report(report, options.out)


def add_two_pass_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `two-pass`."""
    add_acoustic_arguments(parser)
    importlib.import_module("export.two_pass.export").add_arguments(parser)


def run_two_pass(options: argparse.Namespace) -> int:
    """Export an encoder with a CTC head and an attention decoder."""
    return int(importlib.import_module("export.two_pass.export").run(options, _acoustic_options(options)))


def run_conformer(options: argparse.Namespace) -> int:
    """Export a ConformerCTC."""
    from export.acoustic.conformer import export_conformer

    report = export_conformer(Path(options.checkpoint), options.out, _acoustic_options(options))
    return _report(report, options.out)


def _acoustic_options(options: argparse.Namespace) -> Any:
    from export.acoustic.source import ExportOptions

    return ExportOptions(
        precision=options.precision,
        keep=tuple(options.keep),
        verify_data=options.verify_data,
        min_agreement=options.min_agreement,
        allow_slower=options.allow_slower,
        max_wer_loss=options.max_wer_loss,
        licence=options.licence,
        sensitivity=options.sensitivity,
        batches=options.batches,
    )


def _report(report: Any, out: Path | None) -> int:
    from export.card import parity_table

    print("\n".join(parity_table(report)))
    if out is not None:
        print(f"wrote {out}")
    return 0


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `verify`."""
    parser.add_argument("checkpoint", help="folder or hub name of the original")
    parser.add_argument("bundle", type=Path, help="folder of the exported bundle")
    parser.add_argument("--language", help=LANGUAGE_HELP)
    _add_check_arguments(parser)


def run_verify(options: argparse.Namespace) -> int:
    """Compare a bundle with the checkpoint it claims to be."""
    from export.acoustic.export import verify_bundle
    from export.checkpoint import read_json

    folder = Path(options.checkpoint)
    described = read_json(folder / "config.json") if folder.is_dir() else {}
    kind = TRAINED_HERE.get(described.get("architecture", ""), "pretrained")
    load = getattr(importlib.import_module(f"export.acoustic.{kind}"), f"load_{kind}")
    source = load(options.checkpoint, options.language) if kind == "pretrained" else load(folder)
    report = verify_bundle(
        source,
        options.bundle,
        options.verify_data,
        options.min_agreement,
        options.allow_slower,
        options.batches,
    )
    code = _report(report, None)
    if (folder / "decoder.json").is_file():
        from export.two_pass.export import verify_second_pass

        print("\n".join(verify_second_pass(folder, options.bundle, options.verify_data).card()))
    return code


def add_onnx_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `onnx`."""
    importlib.import_module("export.onnx_graph.command").add_arguments(parser)


def run_onnx(options: argparse.Namespace) -> int:
    """Put a graph that another program wrote into a bundle."""
    return int(importlib.import_module("export.onnx_graph.command").run(options))


def add_marian_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `marian`."""
    importlib.import_module("export.translation.marian").add_arguments(parser)


def run_marian(options: argparse.Namespace) -> int:
    """Export a MarianMTModel."""
    return int(importlib.import_module("export.translation.marian").run(options))


def add_punctuation_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `punctuation`."""
    importlib.import_module("export.punctuation").add_arguments(parser)


def run_punctuation(options: argparse.Namespace) -> int:
    """Export a tagger that restores capitals and punctuation."""
    return int(importlib.import_module("export.punctuation").run(options))


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bundle`."""
    parser.add_argument("out", type=Path, help="folder of the bundle; an existing bundle is replaced")
    parser.add_argument(
        "--acoustic", type=Path, help="folder that `engine-export ctc` or `engine-export log-mel` wrote"
    )
    parser.add_argument("--translation", type=Path, help="folder that `engine-export marian` wrote")
    parser.add_argument("--language-model", type=Path, help="KenLM probing binary")
    parser.add_argument("--lexicon", type=Path, help="the decoder's word list")
    parser.add_argument("--punctuation", type=Path, help="graph that `engine-export punctuation` wrote")
    parser.add_argument("--decoding", type=Path, help='JSON of tuned settings: {"lm_alpha": 0.6, ...}')
    parser.add_argument("--second-pass", type=Path, help='the same for the second pass: {"ctc_weight": 0.05}')
    parser.add_argument("--name", required=True)
    parser.add_argument("--licence", required=True)
    parser.add_argument("--figures", type=Path, help="JSON object of figures, with their signatures")
    parser.add_argument("--about", type=Path, help="Markdown for the card: data, training, limits")


def run_bundle(options: argparse.Namespace) -> int:
    """Put exported parts together."""
    from export.bundle import Parts, assemble_bundle
    from export.checkpoint import read_json

    parts = Parts(
        options.acoustic, options.translation, options.language_model, options.lexicon, options.punctuation
    )
    figures = read_json(options.figures, required=True) if options.figures else {}
    about = read_text(options.about) if options.about else ""
    assemble_bundle(
        options.out,
        parts,
        name=options.name,
        licence=options.licence,
        decoding=read_json(options.decoding, required=True) if options.decoding else {},
        second_pass=read_json(options.second_pass, required=True) if options.second_pass else {},
        figures=figures,
        about=about,
    )
    print(f"wrote {options.out}")
    return 0


def add_pair_safe_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `pair-safe`."""
    importlib.import_module("export.pair_safe.command").add_arguments(parser)


def run_pair_safe(options: argparse.Namespace) -> int:
    """Round the int8 weights of an earlier export again."""
    return int(importlib.import_module("export.pair_safe.command").run(options))


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `layout`."""
    importlib.import_module("export.add_layout.command").add_arguments(parser)


def run_layout(options: argparse.Namespace) -> int:
    """Give the graphs of an earlier export their layout tables."""
    return int(importlib.import_module("export.add_layout.command").run(options))


def add_names_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `names`."""
    importlib.import_module("export.translation.names").add_arguments(parser)


def run_names(options: argparse.Namespace) -> int:
    """Give a bundle with a translator the model that tells names."""
    return int(importlib.import_module("export.translation.names").run(options))


COMMANDS = (
    Command(
        "ctc",
        "export a CTC checkpoint of Wav2Vec2, HuBERT, WavLM, MMS, Parakeet or another family",
        add_pretrained_arguments,
        run_pretrained,
    ),
    Command("wav2vec2", "the same as ctc", add_pretrained_arguments, run_pretrained),
    Command("onnx", "put a CTC graph that another program wrote into a bundle", add_onnx_arguments, run_onnx),
    Command("log-mel", "export a log-mel CTC checkpoint of training/", add_acoustic_arguments, run_log_mel),
    Command(
        "two-pass",
        "export a log-mel CTC checkpoint with an attention decoder over its states",
        add_two_pass_arguments,
        run_two_pass,
    ),
    Command(
        "conformer", "export a Conformer CTC checkpoint of training/", add_acoustic_arguments, run_conformer
    ),
    Command("marian", "export a Marian translation checkpoint", add_marian_arguments, run_marian),
    Command(
        "punctuation",
        "export a tagger that restores capitals and punctuation",
        add_punctuation_arguments,
        run_punctuation,
    ),
    Command(
        "names",
        "give a bundle with a translator the model of `engine-train mt-names`",
        add_names_arguments,
        run_names,
    ),
    Command("verify", "compare an exported bundle with its checkpoint", add_verify_arguments, run_verify),
    Command(
        "pair-safe",
        "round an int8 bundle's weights to be exact and fast on processors without VNNI",
        add_pair_safe_arguments,
        run_pair_safe,
    ),
    Command(
        "layout",
        "give a bundle of an earlier export the layout tables that the engine's kernels read",
        add_layout_arguments,
        run_layout,
    ),
    Command("bundle", "put exported parts together into one bundle", add_bundle_arguments, run_bundle),
)
