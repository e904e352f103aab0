"""`engine-train from-whisper --form two-pass`: Whisper for short windows, with a CTC head.

The student sees a clip and half a second more instead of 30 s, augmented; it learns the text (attention
and CTC) and what Whisper itself, with a clean clip and a long window, expects at every token. Weights are
pulled back to Whisper's at every step, so that a few hours of speech do not undo what it knows.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.text import normalize_text
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig
from training.asr.model import compute_ctc
from training.asr.trainer import choose_device
from training.common.augment import AugmentConfig, Augmenter
from training.common.data import ManifestError, Sample, load_waveform, probe_samples, read_manifest
from training.whisper.batches import IGNORED, pad_features, pad_tokens
from training.whisper.checkpoint import TwoPass, load_two_pass, load_whisper_decoder, save_two_pass
from training.whisper.evaluation import evaluate
from training.whisper.examples import Example, ExampleConfig, ExampleMaker, written_text
from training.whisper.head import compute_head_states, copy_head, train_head
from training.whisper.teacher import TeacherTargets, compute_targets
from training.whisper.vocabulary import TokenVocabulary, cut_vocabulary, open_tokenizer
from training.whisper.weights import load_whisper_encoder, whisper_sizes

LOGGER = logging.getLogger("training.whisper")
SLOW_EVERY = 4  # steps between two passes over all weights for what changes slowly
MAX_BAD_STEPS = 20  # in a row
POOL = 96  # clips drawn at once, then sorted by length into batches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that only this form has."""
    group = parser.add_argument_group("two-pass")
    group.add_argument("--synthetic", type=Path, nargs="*", default=[], help="manifests of synthetic speech")
    group.add_argument("--synthetic_share", type=float, default=0.3, help="fraction of examples from them")
    group.add_argument("--text", type=Path, nargs="*", default=[], help="German text for the vocabulary cut")
    group.add_argument("--tokens", type=Path, help="tokens.json of an earlier cut, instead of --text")
    group.add_argument("--min_count", type=int, default=30, help="how often a token must occur in --text")
    group.add_argument("--ctc_weight", type=float, default=0.3)
    group.add_argument("--teacher_weight", type=float, default=0.4, help="share of the attention loss")
    group.add_argument(
        "--teacher_tail_s", type=float, default=30.0, help="silence in the teacher's window; 30: all of it"
    )
    group.add_argument("--head_from", type=Path, help="take the CTC head of this two-pass checkpoint")
    group.add_argument(
        "--head_clips", type=int, default=0, metavar="N",
        help="train the CTC head alone, for --steps, on the frozen states of N clips",
    )  # fmt: skip
    group.add_argument("--noise_share", type=float, default=0.5, help="fraction of changed clips with noise")
    group.add_argument(
        "--snr_db", type=float, nargs=2, default=(4.0, 35.0), metavar=("LOW", "HIGH"),
        help="signal-to-noise ratios that are drawn from",
    )  # fmt: skip
    group.add_argument("--corrupt", type=float, default=0.05, help="fraction of input tokens replaced")
    group.add_argument("--save_minutes", type=float, default=5.0, help="between checkpoints to resume from")


def run(options: argparse.Namespace) -> int:
    """Train or go on training; returns the exit code."""
    options.output_dir.mkdir(parents=True, exist_ok=True)
    vocabulary = find_vocabulary(options)
    tokenizer = open_tokenizer(options.whisper)
    samples, n_real = read_samples(options)
    tokens = [vocabulary.encode(written_text(sample.text), tokenizer) for sample in samples]
    model = build_model(options, vocabulary).to(choose_device(options.device))
    noises = AugmentConfig(
        noise_dir=options.noise_dir, speed=0.3, snr_db=tuple(options.snr_db), noise=options.noise_share
    )
    maker = ExampleMaker(samples, tokens, Augmenter(noises), vocabulary, ExampleConfig())
    evaluation = (
        [(load_waveform(s.path), s.text) for s in read_manifest(options.eval)] if options.eval else []
    )
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
    """Train the CTC head alone; output_dir/last holds the model with it."""
    rng, n_synthetic = np.random.default_rng(options.seed), len(maker.samples) - n_real
    drawn = rng.random(options.head_clips) < (options.synthetic_share if n_synthetic else 0.0)
    synthetic = n_real + rng.integers(0, max(n_synthetic, 1), drawn.size)
    indices = np.where(drawn, synthetic, rng.integers(0, n_real, drawn.size))
    clips = compute_head_states(model.ctc, maker, indices.tolist(), options.seed)
    train_head(model.ctc, clips, options.steps, options.seed)
    figures = evaluate(model, evaluation) if evaluation else {}
    LOGGER.info("%s", figures)
    save_two_pass(model, Path(options.output_dir) / "last", {"head_steps": options.steps, **figures})
    return 0


def find_vocabulary(options: argparse.Namespace) -> TokenVocabulary:
    """The vocabulary of --init, of --tokens, or cut to what --text uses."""
    for path in (options.init and options.init / "tokens.json", options.tokens):
        if path:
            return TokenVocabulary.load(path)
    texts = [sentence for path in options.text for sentence in read_sentences(path)]
    if not texts:
        raise ManifestError("--text or --tokens is missing: which of Whisper's tokens are to be kept?")
    return cut_vocabulary(open_tokenizer(options.whisper), texts, options.min_count)


def read_sentences(path: Path) -> list[str]:
    """Lines of a text file, plain or .zst."""
    if path.suffix != ".zst":
        return path.read_text(encoding="utf-8").splitlines()
    import io

    import zstandard

    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        return io.TextIOWrapper(stream, encoding="utf-8").read().splitlines()


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
        raise ManifestError("no clip to learn from; check the manifests' paths and texts")
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
    """Whisper as it is."""
    sizes = {"n_sinks": 0, "tail_silence_s": options.tail_silence_s, "head": options.head}
    ctc = LogMelCtc(LogMelCtcConfig(**whisper_sizes(options.whisper), **sizes))
    load_whisper_encoder(ctc, options.whisper)
    return TwoPass(ctc, load_whisper_decoder(options.whisper, vocabulary), vocabulary).eval()


class TwoPassTrainer:
    """Trains encoder, decoder and CTC head together."""

    def __init__(
        self, options: argparse.Namespace, model: TwoPass, whisper: TwoPass, maker: ExampleMaker,
        targets: TeacherTargets, n_real: int,
    ) -> None:  # fmt: skip
        self.options, self.model, self.maker, self.targets = options, model, maker, targets
        self.n_real, self.device = n_real, next(model.parameters()).device
        self.evaluation: Sequence[tuple[Any, str]] = []
        for parameter in (*model.ctc.conv1.parameters(), *model.ctc.conv2.parameters()):
            parameter.requires_grad = False
        head = list(model.ctc.head.parameters())
        known = {id(parameter) for parameter in head}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups = ((rest, options.learning_rate), (head, options.head_learning_rate))
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rate, "base": rate} for parameters, rate in groups],
            betas=(0.9, 0.98), weight_decay=0.01, fused=True,
        )  # fmt: skip
        anchors = dict(whisper.named_parameters())
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.anchors = [anchors[names[id(parameter)]].detach().to(self.device) for parameter in rest]
        self.average = copy.deepcopy(model).eval()
        self.step, self.passed_s = 0, 0.0

    @property
    def state_path(self) -> Path:
        """Where the run can go on from."""
        return Path(self.options.output_dir) / "state.pt"

    def run(self) -> None:
        """Train until the steps or minutes are over; output_dir/last holds the averaged weights."""
        self._resume()
        began, saved, losses, bad = time.monotonic() - self.passed_s, time.monotonic(), [], 0
        for examples in self._examples():
            self.passed_s = time.monotonic() - began
            progress = self.passed_s / 60.0 / self.options.max_minutes
            progress = min(1.0, max((self.step + 1) / self.options.steps, progress))
            self._set_rates(progress)
            figures = self._train_step(examples)
            bad = bad + 1 if figures is None else 0
            if bad >= MAX_BAD_STEPS:
                raise FloatingPointError(
                    f"{bad} steps in a row had no finite gradient; lower --learning_rate"
                )
            self.step += 1
            losses += [] if figures is None else [figures]
            if self.step % self.options.eval_every == 0 or progress >= 1.0:
                self._report(losses)
                losses = []
            if time.monotonic() - saved > 60.0 * self.options.save_minutes or progress >= 1.0:
                self._save()
                saved = time.monotonic()
            if progress >= 1.0:
                return

    def _resume(self) -> None:
        if not self.state_path.exists():
            return
        content = torch.load(self.state_path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.passed_s = content["step"], content["passed_s"]
        LOGGER.info("going on at step %d", self.step)

    def _save(self) -> None:
        content = {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "passed_s": self.passed_s,
        }  # fmt: skip
        partial = self.state_path.with_suffix(".part")
        torch.save(content, partial)
        partial.replace(self.state_path)
        save_two_pass(self.average, Path(self.options.output_dir) / "last", {"step": self.step})

    def _examples(self) -> Iterator[list[Example]]:
        """Batches, one of them made ahead while the network works."""
        with ThreadPoolExecutor(1) as pool:
            plan = self._plan()
            pending = pool.submit(self._make, *next(plan))
            while True:
                following = pool.submit(self._make, *next(plan))
                yield pending.result()
                pending = following

    def _plan(self) -> Iterator[tuple[list[int], int]]:
        """Indices of clips of similar length and a seed, from the step at which the run goes on."""
        number = self.step
        durations = np.array([sample.duration_s for sample in self.maker.samples])
        while True:
            rng = np.random.default_rng((self.options.seed, number))
            share = self.options.synthetic_share if len(durations) > self.n_real else 0.0
            synthetic = rng.random(POOL) < share
            chosen = np.where(
                synthetic, rng.integers(min(self.n_real, len(durations) - 1), len(durations), POOL),
                rng.integers(0, self.n_real, POOL),
            )  # fmt: skip
            chosen = chosen[np.argsort(durations[chosen])]
            batches: list[list[int]] = []
            batch: list[int] = []
            total = 0.0
            for index in chosen:
                if batch and total + durations[index] > self.options.batch_s:
                    batches.append(batch)
                    batch, total = [], 0.0
                batch.append(int(index))
                total += float(durations[index])
            for place in rng.permutation(len(batches)):
                yield batches[place], number
                number += 1

    def _make(self, indices: list[int], seed: int) -> list[Example]:
        rng = np.random.default_rng((self.options.seed, 1, seed))
        examples = [self.maker.make(index, rng) for index in indices]
        return [example for example in examples if example.n_frames <= 1475]

    def _set_rates(self, progress: float) -> None:
        factor = min(1.0, (self.step + 1) / 150) * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor

    def _train_step(self, examples: Sequence[Example]) -> dict[str, float] | None:
        """One step; None where loss or gradients are not finite, and nothing is changed then."""
        self.model.train()
        attention, teacher, ctc = self._losses(examples)
        weight = self.options.teacher_weight
        attended = attention if teacher is None else (1.0 - weight) * attention + weight * teacher
        loss = attended + self.options.ctc_weight * ctc
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(trained, 1.0))
        finite = math.isfinite(float(loss.detach())) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        else:
            LOGGER.warning(
                "step %d: loss %g, gradient norm %g: left out", self.step, float(loss.detach()), norm
            )
        self.optimizer.zero_grad(set_to_none=True)
        if not finite:
            return None
        if self.step % SLOW_EVERY == 0:
            self._pull_and_average()
        shown = {"attention": attention, "teacher": teacher, "ctc": ctc}
        return {name: float(value.detach()) for name, value in shown.items() if value is not None} | {
            "norm": norm
        }

    def _losses(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Attention loss a token, the teacher's a token (None where no clip has one), CTC loss a label."""
        features, n_frames = pad_features(examples)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
            states = self.model.ctc.encode(features.to(self.device))
            tokens, wanted = pad_tokens(examples, self.model.decoder.config.no_speech_id)
            read = self._corrupt(tokens, [len(example.tokens) for example in examples])
            logits = self.model.decoder(read.to(self.device), states, n_frames)
            emissions = self.model.ctc.classify(states)
        log_probs = logits.float().log_softmax(-1)
        flat, goal = log_probs.flatten(0, 1), wanted.flatten().to(self.device)
        attention = functional.nll_loss(flat, goal, ignore_index=IGNORED)
        smooth = -flat[goal != IGNORED].mean(-1).mean()
        total, _ = compute_ctc(emissions, n_frames, [example.labels for example in examples])
        n_labels = max(sum(len(example.labels) for example in examples), 1)
        return 0.95 * attention + 0.05 * smooth, self._teach(examples, log_probs), total / n_labels

    def _teach(self, examples: Sequence[Example], log_probs: Tensor) -> Tensor | None:
        parts = []
        first = len(self.model.decoder.config.prompt) - 1
        for row, example in enumerate(examples):
            if 0 <= example.source < self.n_real:
                last = len(example.tokens) - 2  # where the text ends is told by the text alone
                found = self.targets.divergence(example.source, log_probs[row, : last + 1])
                parts.append(found[first:last])
        return torch.cat(parts).mean() if parts else None

    def _corrupt(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Replace some of the tokens that are read, so that one error does not lead to the next."""
        first = len(self.model.decoder.config.prompt)
        drawn = torch.rand(tokens.shape) < self.options.corrupt
        drawn[:, :first] = False
        others = torch.randint(first + 2, self.model.decoder.config.vocab_size, tokens.shape)
        return torch.where(drawn, others, tokens)

    @torch.no_grad()
    def _pull_and_average(self) -> None:
        """Do SLOW_EVERY steps' worth of pulling back to Whisper and of averaging at once."""
        keep = min(0.995, (self.step + 1) / (self.step + 20)) ** SLOW_EVERY
        pull = 1.0 - (1.0 - self.options.pull) ** SLOW_EVERY
        for anchor, parameter in zip(self.anchors, self.optimizer.param_groups[0]["params"], strict=True):
            parameter.lerp_(anchor, pull)
        for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
            if parameter.requires_grad:
                mean.lerp_(parameter, 1.0 - keep)

    def _report(self, losses: Sequence[dict[str, float]]) -> None:
        names = sorted({name for figures in losses for name in figures})
        means = {n: round(float(np.mean([f[n] for f in losses if n in f])), 4) for n in names}
        figures: dict[str, Any] = {"step": self.step, "minutes": round(self.passed_s / 60.0, 1), **means}
        if self.evaluation:
            figures |= evaluate(self.average, self.evaluation)
        LOGGER.info("%s", figures)
        with (Path(self.options.output_dir) / "evaluations.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(figures) + "\n")
