"""The two-pass form's training: encoder, attention decoder and CTC head together."""

from __future__ import annotations

import argparse
import collections
import json
import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.text import NORMALIZER
from training.asr.model import compute_ctc
from training.common.checkpoint import LastCheckpoints, State, replace_folder
from training.common.finite import find_nonfinite
from training.common.loop import TrainingLoop
from training.common.ranks import Ranks
from training.common.schedule import cosine, rise
from training.common.trainable import Figures, Limits
from training.common.watchdog import StepReport, Watchdog
from training.whisper.average import SlowWeights
from training.whisper.batches import IGNORED, pad_features, pad_tokens
from training.whisper.checkpoint import TwoPass, save_two_pass
from training.whisper.evaluation import evaluate
from training.whisper.examples import Example, ExampleMaker
from training.whisper.teacher import TeacherTargets

LOGGER = logging.getLogger("training.whisper")
POOL = 96  # clips drawn at once, then sorted by length into batches
WARMUP = 150  # steps
LONGEST = 1475  # states: Whisper's positions end at 1500
IDENTITY = ("seed", "batch_s", "synthetic_share")
CONDITIONS = (
    "learning_rate", "head_learning_rate", "pull", "ctc_weight", "teacher_weight", "corrupt", "noise_share",
    "dropout", "bf16",
)  # fmt: skip


class TwoPassTrainer(TrainingLoop):
    """Trains a TwoPass; output_dir/last has the averaged weights."""

    def __init__(
        self, options: argparse.Namespace, model: TwoPass, whisper: TwoPass, maker: ExampleMaker,
        targets: TeacherTargets, n_real: int,
    ) -> None:  # fmt: skip
        self.options, self.maker, self.targets, self.n_real = options, maker, targets, n_real
        self.evaluation: Sequence[tuple[Any, str]] = []
        for parameter in (*model.ctc.conv1.parameters(), *model.ctc.conv2.parameters()):
            parameter.requires_grad = False
        head = list(model.ctc.head.parameters())
        known = {id(parameter) for parameter in head}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups = ((rest, options.learning_rate), (head, options.head_learning_rate))
        optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rate, "base": rate} for parameters, rate in groups],
            betas=(0.9, 0.98), weight_decay=0.01, fused=True,
        )  # fmt: skip
        super().__init__(
            model, [optimizer], LastCheckpoints(Path(options.output_dir) / "state.pt"),
            Watchdog(warmup=WARMUP), Ranks(next(model.parameters()).device),
        )  # fmt: skip
        anchors = dict(whisper.named_parameters())
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        whispers = [anchors[names[id(parameter)]].detach().to(self.device) for parameter in rest]
        self.slow = SlowWeights(model, rest, whispers, options.pull, 0.995)
        self._recent: list[dict[str, float]] = []

    @property
    def limits(self) -> Limits:
        """See Trainable."""
        options = self.options
        return Limits(options.steps, options.max_minutes, save_minutes=options.save_minutes)

    def groups(self) -> Iterator[tuple[int, int, Future[list[Example]]]]:
        """See Trainable; the next batch is made while the network works."""
        with ThreadPoolExecutor(1) as pool:
            ahead: collections.deque[tuple[int, int, Future[list[Example]]]] = collections.deque()
            for epoch, place, indices in self._plan():
                ahead.append((epoch, place, pool.submit(self._make, indices, epoch + place)))
                if len(ahead) > 1:
                    yield ahead.popleft()

    def _plan(self) -> Iterator[tuple[int, int, list[int]]]:
        """Clips of similar length; an epoch is a pool of clips, named after its first batch's number."""
        epoch, first = self.position.epoch, self.position.batch
        while True:
            batches = self._draw_pool(epoch)
            for place in range(first, len(batches)):
                yield epoch, place, batches[place]
            epoch, first = epoch + len(batches), 0

    def _draw_pool(self, number: int) -> list[list[int]]:
        rng = np.random.default_rng((self.options.seed, number))
        durations = np.array([sample.duration_s for sample in self.maker.samples])
        share = self.options.synthetic_share if len(durations) > self.n_real else 0.0
        synthetic = rng.random(POOL) < share
        chosen = np.where(
            synthetic, rng.integers(min(self.n_real, len(durations) - 1), len(durations), POOL),
            rng.integers(0, self.n_real, POOL),
        )  # fmt: skip
        chosen = chosen[np.argsort(durations[chosen])]
        batches: list[list[int]] = []
        total = 0.0
        for index in chosen:
            if not batches or total + durations[index] > self.options.batch_s:
                batches.append([])
                total = 0.0
            batches[-1].append(int(index))
            total += float(durations[index])
        # the last batch, which is not full, is dropped, unless the pool has only one batch
        return [batches[place] for place in rng.permutation(max(len(batches) - 1, 1))]

    def _make(self, indices: list[int], seed: int) -> list[Example]:
        rng = np.random.default_rng((self.options.seed, 1, seed))
        kept = [index for index in indices if str(self.maker.samples[index].path) not in self.excluded]
        examples = [self.maker.make(index, rng) for index in kept]
        return [example for example in examples if example.n_frames <= LONGEST]

    def _set_rates(self) -> None:
        factor = self.position.rate * rise(self.position.step, WARMUP) * cosine(self.progress(), 0.02)
        for group in self.optimizers[0].param_groups:
            group["lr"] = group["base"] * factor

    def compute(self, data: Sequence[Example]) -> Figures:
        """See Trainable."""
        if not data:
            return Figures(0.0)
        loss, figures = self._add_losses(data)
        self.backward(loss)
        figures.loss = float(loss.detach())
        return figures

    def _add_losses(self, examples: Sequence[Example]) -> tuple[Tensor, Figures]:
        attention, teacher, ctc, infinite = self._losses(examples)
        weight = self.options.teacher_weight
        attended = attention if teacher is None else (1.0 - weight) * attention + weight * teacher
        named = {"attention": attention, "teacher": teacher, "ctc": ctc}
        shown = {name: float(value.detach()) for name, value in named.items() if value is not None}
        return attended + self.options.ctc_weight * ctc, Figures(0.0, n_infinite=infinite, shown=shown)

    def find_bad(self, data: Sequence[Example]) -> list[str]:
        """See Trainable; joined clips are one example."""
        names = []
        for example in data:
            for parameter in self.trained():
                parameter.grad = None
            figures = self.compute([example])
            gradients = [("", p.grad) for p in self.trained() if p.grad is not None]
            if example.source >= 0 and (not math.isfinite(figures.loss) or find_nonfinite(gradients)):
                names.append(str(self.maker.samples[example.source].path))
        return names

    def _losses(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor | None, Tensor, int]:
        """Attention loss per token, the teacher's per token (None where no clip has one), CTC loss per label,
        and how many clips had more text than frames."""
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
        total, infinite = compute_ctc(emissions, n_frames, [example.labels for example in examples])
        n_labels = max(sum(len(example.labels) for example in examples), 1)
        teacher = self._teach(examples, log_probs)
        return 0.95 * attention + 0.05 * smooth, teacher, total / n_labels, infinite

    def _teach(self, examples: Sequence[Example], log_probs: Tensor) -> Tensor | None:
        parts = []
        first = len(self.model.decoder.config.prompt) - 1
        for row, example in enumerate(examples):
            if 0 <= example.source < self.n_real:
                last = len(example.tokens) - 2  # the end is learned from the text only
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

    def after_update(self) -> None:
        """See Trainable."""
        self.slow.update(self.position.step)

    def after_step(self, report: StepReport) -> None:
        """See Trainable."""
        if not report.skipped and self.figures.shown:
            self._recent.append({**self.figures.shown, "norm": report.grad_norm})
        if report.step % self.options.eval_every == 0:
            self._report()

    def after_save(self) -> None:
        """See Trainable."""
        step = {"step": self.position.step}
        folder = Path(self.options.output_dir) / "last"
        replace_folder(folder, lambda part: save_two_pass(self.slow.average, part, step))

    def extra_state(self) -> State:
        """See Trainable."""
        return {"average": self.slow.average.state_dict()}

    def load_extra(self, state: State) -> None:
        """See Trainable."""
        self.slow.average.load_state_dict(state["average"])

    def load_state(self, state: State) -> None:
        """See TrainingLoop; older states had step and passed_s at the top level."""
        if "progress" not in state:
            step, minutes = state["step"], state["passed_s"] / 60.0
            state = {**state, "progress": {"step": step, "epoch": step, "minutes": minutes}}
        super().load_state(state)

    def identity(self) -> dict[str, Any]:
        """See Trainable."""
        found = {name: getattr(self.options, name) for name in IDENTITY}
        return {**found, "the number of clips": len(self.maker.samples)}

    def conditions(self) -> dict[str, Any]:
        """See Trainable."""
        found = {name: getattr(self.options, name) for name in CONDITIONS}
        return {**found, "the text normaliser": NORMALIZER}

    def finish(self) -> None:
        """See Trainable."""
        if self._recent:
            self._report()

    def _report(self) -> None:
        losses, self._recent = self._recent, []
        names = sorted({name for figures in losses for name in figures})
        means = {n: round(float(np.mean([f[n] for f in losses if n in f])), 4) for n in names}
        figures: dict[str, Any] = {
            "step": self.position.step,
            "minutes": round(self.position.minutes, 1),
            **means,
        }
        if self.evaluation:
            figures |= evaluate(self.slow.average, self.evaluation)
        LOGGER.info("%s", figures)
        with (Path(self.options.output_dir) / "evaluations.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(figures) + "\n")
