"""`engine-train from-whisper`: a recogniser on Whisper's encoder.

Three forms: log-mel (here and in log_mel.py), two-pass (train.py) and Wav2Vec2 (wav2vec2_distillation.py).
In the log-mel form the lower layers stay as in Whisper and run once per clip; the upper layers and a new
head are trained on their states. The checkpoint is chosen on real speech that is not trained on.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from engine.errors import OptionError
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig, load_checkpoint
from training.common.augment import AugmentConfig, Augmenter
from training.common.data import (
    ManifestError,
    Sample,
    build_vocabulary,
    load_waveform,
    read_manifest,
)
from training.common.ranks import choose_device
from training.whisper import train as two_pass
from training.whisper.log_mel import WhisperTrainer
from training.whisper.log_mel import group_by_length as group_by_length  # older callers import it from here
from training.whisper.states import StatesConfig, read_shard, write_shards
from training.whisper.weights import WeightsError, load_whisper_encoder, set_sinks, whisper_sizes

LOGGER = logging.getLogger("training.whisper.command")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `engine-train from-whisper`."""
    parser.add_argument(
        "--whisper", type=Path, required=True,
        help="folder of Whisper: CTranslate2's (float16 or float32) or transformers'",
    )  # fmt: skip
    parser.add_argument(
        "--form", choices=("two-pass", "log-mel", "wav2vec2"), default="log-mel",
        help="two-pass: encoder, CTC head and attention decoder, for short windows. log-mel: Whisper's stem "
        "and positions, a CTC head. wav2vec2: a Wav2Vec2ForCTC whose front end "
        "and positions are distilled from Whisper without labels, to go on with in `engine-train asr`",
    )  # fmt: skip
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="manifests")
    parser.add_argument(
        "--eval",
        type=Path,
        help="manifest of REAL speech to choose a checkpoint by; never trained on (required for log-mel)",
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="continue from this LogMelCTC checkpoint")
    parser.add_argument("--n_frozen", type=int, default=4, help="number of layers that stay unchanged")
    parser.add_argument(
        "--passes", type=int, default=1, help="number of differently distorted copies of each clip"
    )
    parser.add_argument("--noise_dir", type=Path)
    parser.add_argument("--n_sinks", type=int, default=23)
    parser.add_argument("--tail_silence_s", type=float, default=0.5)
    parser.add_argument("--head", choices=("lstm", "transformer"), default="lstm")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--max_minutes", type=float, default=math.inf)
    parser.add_argument("--batch_s", type=float, default=30.0, help="seconds of speech per step")
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="learning rate of the upper layers")
    parser.add_argument("--head_learning_rate", type=float, default=8e-4)
    parser.add_argument(
        "--pull",
        type=float,
        default=1e-3,
        help="how far weights are pulled back to Whisper's at each step, as a share of the distance",
    )
    parser.add_argument(
        "--blank_bias", type=float, default=0.0, help="subtracted from the blank's logit at the end"
    )
    parser.add_argument("--join", type=float, default=0.3, help="share of clips that are joined to another")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--mask", type=float, default=0.08, help="fraction of states hidden")
    parser.add_argument("--eval_every", type=int, default=100)
    parser.add_argument("--stem_steps", type=int, default=1000, help="wav2vec2: steps for the front end")
    parser.add_argument(
        "--position_steps", type=int, default=4000, help="wav2vec2: steps in which Whisper's positions fade"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--bf16", action="store_true", help="run the network in bfloat16, CTC in float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    two_pass.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.form == "log-mel" and options.eval is None:
        LOGGER.error("--eval is missing: the log-mel form needs real speech to choose a checkpoint by")
        return 2
    try:
        if options.form == "two-pass":
            return two_pass.run(options)
        if options.form == "wav2vec2":
            from training.whisper.wav2vec2_distillation import run_distillation

            return run_distillation(options, build_encoder(options))
        samples = [sample for source in options.train for sample in read_manifest(source)]
        evaluation = read_manifest(options.eval)
        model = build_model(options, samples)
    except (ManifestError, OptionError, WeightsError) as error:
        LOGGER.error("%s", error)
        return 2
    vocabulary = build_vocabulary([])
    augmenter = Augmenter(
        AugmentConfig(noise_dir=options.noise_dir, speed=0.3, snr_db=(6.0, 38.0), noise=0.45)
    )
    states = StatesConfig(options.n_frozen, n_mels=model.config.n_mels)
    shards = []
    for number in range(options.passes):
        folder = options.output_dir / "states"
        shards += write_shards(model, samples, vocabulary, augmenter, states, folder, options.seed + number)
    clips = [clip for shard in shards for clip in read_shard(shard)]
    WhisperTrainer(options, model, clips, evaluation).run()
    return 0


def build_model(options: argparse.Namespace, samples: Sequence[Sample]) -> LogMelCtc:
    """Return a checkpoint's model, or Whisper's encoder with sinks and a head from random weights."""
    if options.init:
        return load_checkpoint(options.init, options.dropout).to(choose_device(options.device))
    return build_encoder(options, samples)


def build_encoder(options: argparse.Namespace, samples: Sequence[Sample] | None = None) -> LogMelCtc:
    """Return Whisper's encoder with sinks and a head from random weights, on the device asked for."""
    sizes = {"n_sinks": options.n_sinks, "tail_silence_s": options.tail_silence_s, "head": options.head}
    model = LogMelCtc(LogMelCtcConfig(**whisper_sizes(options.whisper), **sizes), options.dropout)
    load_whisper_encoder(model, options.whisper)
    if options.n_sinks:
        samples = samples or [sample for source in options.train for sample in read_manifest(source)]
        waveforms = (torch.from_numpy(load_waveform(sample)) for sample in samples[:30])
        set_sinks(model, [waveform for waveform in waveforms if waveform.numel() < 110_000][:12])
    return model.to(choose_device(options.device))
