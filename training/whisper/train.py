"""`engine-train from-whisper --form two-pass`: Whisper for short windows, with a CTC head.

The student sees an augmented clip and half a second of silence instead of 30 s. It learns the text (attention
and CTC) and what Whisper itself, with a clean clip and a long window, expects at every token. Weights are
pulled back to Whisper's at every step, so that training on a few hours of speech does not destroy them.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from engine.errors import OptionError
from engine.text import normalize_text
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig
from training.common.augment import AugmentConfig, Augmenter
from training.common.checkpoint import replace_folder
from training.common.data import ManifestError, Sample, load_waveform, probe_samples, read_manifest
from training.common.ranks import choose_device
from training.common.text_files import read_text
from training.whisper.checkpoint import TwoPass, load_two_pass, load_whisper_decoder, save_two_pass
from training.whisper.evaluation import evaluate
from training.whisper.examples import ExampleConfig, ExampleMaker, written_text
from training.whisper.head import compute_head_states, copy_head, train_head
from training.whisper.teacher import compute_targets
from training.whisper.two_pass import TwoPassTrainer
from training.whisper.vocabulary import TokenVocabulary, cut_vocabulary, open_tokenizer
from training.whisper.weights import load_whisper_encoder, whisper_sizes

LOGGER = logging.getLogger("training.whisper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this form."""
    group = parser.add_argument_group("two-pass")
    group.add_argument("--synthetic", type=Path, nargs="*", default=[], help="manifests of synthetic speech")
    group.add_argument("--synthetic_share", type=float, default=0.3, help="fraction of examples from them")
    group.add_argument(
        "--text",
        type=Path,
        nargs="*",
        default=[],
        help="German text that decides which tokens the vocabulary has",
    )
    group.add_argument("--tokens", type=Path, help="tokens.json of an earlier run, instead of --text")
    group.add_argument("--min_count", type=int, default=30, help="how often a token must occur in --text")
    group.add_argument("--ctc_weight", type=float, default=0.3)
    group.add_argument("--teacher_weight", type=float, default=0.4, help="share of the attention loss")
    group.add_argument(
        "--teacher_tail_s", type=float, default=30.0, help="silence in the teacher's window; 30: all of it"
    )
    group.add_argument("--head_from", type=Path, help="use the CTC head of this two-pass checkpoint")
    group.add_argument(
        "--head_clips", type=int, default=0, metavar="N",
        help="train only the CTC head, for --steps, on the frozen states of N clips",
    )  # fmt: skip
    group.add_argument("--noise_share", type=float, default=0.5, help="fraction of changed clips with noise")
    group.add_argument(
        "--snr_db", type=float, nargs=2, default=(4.0, 35.0), metavar=("LOW", "HIGH"),
        help="signal-to-noise ratios that are drawn from",
    )  # fmt: skip
    group.add_argument("--corrupt", type=float, default=0.05, help="fraction of input tokens replaced")
    group.add_argument(
        "--save_minutes", type=float, default=5.0, help="minutes between checkpoints to resume from"
    )


def run(options: argparse.Namespace) -> int:
    """Train, or resume; returns the exit code."""
    options.output_dir.mkdir(parents=True, exist_ok=True)
    vocabulary = find_vocabulary(options)
    tokenizer = open_tokenizer(options.whisper)
    samples, n_real = read_samples(options)
    tokens = [vocabulary.encode(written_text(sample.text), tokenizer) for sample in samples]
    model = build_model(options, vocabulary).to(choose_device(options.device))
    noises = AugmentConfig(
        noise_dir=options.noise_dir, speed=0.3, snr_db=tuple(options.snr_db), noise=options.noise_share
    )
    config = ExampleConfig(n_mels=model.ctc.config.n_mels)
    maker = ExampleMaker(samples, tokens, Augmenter(noises), vocabulary, config)
    evaluation = [(load_waveform(s), s.text) for s in read_manifest(options.eval)] if options.eval else []
    if options.head_clips:
        return run_head(options, model, maker, n_real, evaluation)
    teacher = build_teacher(options, vocabulary)
    whole = [[*vocabulary.prompt, *ids, vocabulary.end_id] for ids in tokens[:n_real]]
    path = options.output_dir / "teacher.pt"
    targets = compute_targets(
        teacher.ctc, teacher.decoder, samples[:n_real], whole, path, options.teacher_tail_s
    )
    trainer = TwoPassTrainer(options, model, teacher, maker, targets, n_real)
    trainer.evaluation = evaluation
    trainer.run()
    return 0


def run_head(
    options: argparse.Namespace, model: TwoPass, maker: ExampleMaker, n_real: int, evaluation: Any
) -> int:
    """Train only the CTC head; output_dir/last is the model with it."""
    rng, n_synthetic = np.random.default_rng(options.seed), len(maker.samples) - n_real
    drawn = rng.random(options.head_clips) < (options.synthetic_share if n_synthetic else 0.0)
    synthetic = n_real + rng.integers(0, max(n_synthetic, 1), drawn.size)
    indices = np.where(drawn, synthetic, rng.integers(0, n_real, drawn.size))
    clips = compute_head_states(model.ctc, maker, indices.tolist(), options.seed)
    train_head(model.ctc, clips, options.steps, options.seed, Path(options.output_dir) / "head.pt")
    figures = evaluate(model, evaluation) if evaluation else {}
    LOGGER.info("%s", figures)
    step = {"head_steps": options.steps, **figures}
    replace_folder(Path(options.output_dir) / "last", lambda part: save_two_pass(model, part, step))
    return 0


def find_vocabulary(options: argparse.Namespace) -> TokenVocabulary:
    """The vocabulary of --init or of --tokens, or the part of Whisper's that --text uses."""
    for path in (options.init and options.init / "tokens.json", options.tokens):
        if path:
            return TokenVocabulary.load(path)
    texts = [sentence for path in options.text for sentence in read_sentences(path)]
    if not texts:
        raise OptionError("neither --text nor --tokens", "the choice of Whisper's tokens", "add --text FILE")
    return cut_vocabulary(open_tokenizer(options.whisper), texts, options.min_count)


def read_sentences(path: Path) -> list[str]:
    """Lines of a text file, plain or .zst."""
    return list(read_text(path))


def read_samples(options: argparse.Namespace) -> tuple[list[Sample], int]:
    """Clips of all manifests with text and readable audio of 0.3 to 28 s; real ones first, and how many."""
    found: list[Sample] = []
    n_real = 0
    for group in (options.train, options.synthetic):
        samples = probe_samples([sample for source in group for sample in read_manifest(source)])
        good = [
            s for s in samples if not s.problem and 0.3 <= s.duration_s <= 28.0 and normalize_text(s.text)
        ]
        if len(good) < len(samples):
            n_bad = len(samples) - len(good)
            LOGGER.warning("%d of %d clips are left out: no text or audio, or too long", n_bad, len(samples))
        found += good
        n_real = n_real or len(found)
    if not found:
        sources = " ".join(map(str, (*options.train, *options.synthetic)))
        raise ManifestError(sources, ["no clip to learn from"], "check the manifests' paths and texts")
    return found, n_real


def build_model(options: argparse.Namespace, vocabulary: TokenVocabulary) -> TwoPass:
    """A checkpoint's model, or Whisper with a CTC head from random weights."""
    if options.init:
        model = load_two_pass(options.init, options.dropout)
    else:
        model = build_teacher(options, vocabulary)
    if options.head_from:
        copy_head(model.ctc, load_two_pass(options.head_from).ctc, options.head_from)
    for module in model.ctc.head.modules():
        if isinstance(module, nn.Dropout):
            module.p = options.dropout
    return model


def build_teacher(options: argparse.Namespace, vocabulary: TokenVocabulary) -> TwoPass:
    """The original Whisper."""
    sizes = {"n_sinks": 0, "tail_silence_s": options.tail_silence_s, "head": options.head}
    ctc = LogMelCtc(LogMelCtcConfig(**whisper_sizes(options.whisper), **sizes))
    load_whisper_encoder(ctc, options.whisper)
    return TwoPass(ctc, load_whisper_decoder(options.whisper, vocabulary), vocabulary).eval()
