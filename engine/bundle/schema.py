"""The schema of manifest.json: what a bundle holds and how its models are run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

SCHEMA_VERSION = 1

# Bounds far beyond every model: what lies outside would overflow, or fill the memory, where it is used.
MAX_WINDOW_S, MAX_TAIL_S = 3600.0, 60.0
Positive = Annotated[int, msgspec.Meta(gt=0, le=1_000_000)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Size = Annotated[int, msgspec.Meta(gt=0, le=65_536)]  # of tensors
Tokens = Annotated[int, msgspec.Meta(gt=1, le=65_536)]
Layers = Annotated[int, msgspec.Meta(gt=0, le=1024)]
Beams = Annotated[int, msgspec.Meta(gt=0, le=64)]  # of a search over a decoder's tokens
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Weight = Annotated[float, msgspec.Meta(ge=-1000, le=1000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=100)]  # of a score in a sum
Threshold = Annotated[float, msgspec.Meta(ge=-1e9, le=0)]  # natural log
Hertz = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]


class FeatureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an encoder is fed.

    Attributes:
        kind: "waveform" (float32 samples) or "log_mel" (float32 [n_mels, n_frames]).
        sample_rate: Hz.
        normalize: scale each waveform to zero mean and unit variance; for "nemo" each band of an utterance;
            no other log-mel features heed it.
        n_fft, hop_length: samples. n_mels: filters.
        convention: whose log-mel it is; "whisper" is base 10, floored 8 below the maximum; "kaldi" is natural
            log, with n_fft 512; "nemo" too, with frames centred on every hop and Slaney's filters. What
            follows is for "kaldi" alone.
        window: of a frame. preemphasis: coefficient. remove_dc: take out each frame's mean.
        snip_edges: only frames that lie inside the waveform.
        low_hz, high_hz: ends of the bands; high_hz at or below zero counts from half the sample rate.
        use_energy: one row more, in front: the log energy, at least that of energy_floor.
        scale: factor on the samples; Kaldi's own models hear 16-bit integers, 32768.
    """

    kind: Literal["waveform", "log_mel"] = "waveform"
    sample_rate: Annotated[int, msgspec.Meta(ge=1000, le=1_000_000)] = 16_000
    normalize: bool = True
    n_fft: Size = 400
    hop_length: Size = 160
    n_mels: Annotated[int, msgspec.Meta(gt=0, le=1024)] = 80
    convention: Literal["whisper", "kaldi", "nemo"] = "whisper"
    window: Literal["povey", "hamming", "hanning"] = "povey"
    preemphasis: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.97
    remove_dc: bool = True
    snip_edges: bool = True
    low_hz: Hertz = 20.0
    high_hz: Hertz = 0.0
    use_energy: bool = False
    energy_floor: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    scale: Annotated[float, msgspec.Meta(ge=1e-9, le=1e9)] = 32768.0


class AcousticConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to run an acoustic model.

    Attributes:
        samples_per_frame: waveform samples for each row of log_probs.
        tail_silence_s: silence appended to every utterance; its frames are cut off again.
        max_window_s: the longest utterance that the encoder takes at once.
        mask: whether the graph has an `attention_mask` input.
        trained_with_mask: whether padding was masked in training; without one (group norm) padding that no
            graph of ours masks would change the transcript.
        exporter: package versions that wrote the graph. figures: parity figures it shipped with.
    """

    features: FeatureConfig = FeatureConfig()
    samples_per_frame: Size = 320
    blank_id: Natural = 0
    word_delimiter: str = "|"
    tail_silence_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_TAIL_S)] = 0.0
    max_window_s: Annotated[float, msgspec.Meta(ge=0.5, le=MAX_WINDOW_S)] = 30.0
    mask: bool = False
    trained_with_mask: bool = False
    precision: str = "fp32"
    opset: Positive = 18
    exporter: dict[str, str] = {}
    figures: dict[str, Any] = {}


class DecodingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Beam search settings that were tuned on a development set with this bundle's models.

    Attributes:
        lm_alpha, lm_beta: weight of the language model; score added for every word.
        token_min_logp: tokens below it are not tried. beam_prune_logp: beams this far below
            the best are dropped. unk_score_offset: log10 added to an unknown word's score;
            unk_letter_score: natural log added for each of its letters.
    """

    beam_width: Annotated[int, msgspec.Meta(gt=0, le=4096)] = 64
    lm_alpha: Weight = 0.5
    lm_beta: Weight = 1.5
    token_min_logp: Threshold = -5.0
    beam_prune_logp: Threshold = -10.0
    unk_score_offset: Weight = -10.0
    unk_letter_score: Weight = 0.0
    figures: dict[str, Any] = {}


class TranslationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to run an encoder-decoder translator with a key-value cache.

    Attributes:
        n_layers, n_heads, head_dim: of the decoder, for the cache's shape.
        max_source_tokens, max_target_tokens: limits of one sentence.
        length_penalty: exponent of the length that a hypothesis's score is divided by.
    """

    decoder_start_id: Natural
    eos_id: Natural
    pad_id: Natural
    vocab_size: Positive
    n_layers: Layers
    n_heads: Size
    head_dim: Size
    max_source_tokens: Tokens = 256
    max_target_tokens: Tokens = 256
    beam_size: Beams = 4
    length_penalty: Annotated[float, msgspec.Meta(ge=-5, le=5)] = 1.0
    source_language: str = "de"
    target_language: str = "en"
    precision: str = "fp32"
    opset: Positive = 18
    exporter: dict[str, str] = {}
    figures: dict[str, Any] = {}


class SecondPassConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to run an attention decoder over the encoder's states, and how to search with it.

    Attributes:
        vocab_size: tokens, in the order of asr_tokens.json.
        prompt: ids that every transcript begins with. end_id: closes it.
        no_speech_id: predicted in place of the second prompt token where nobody speaks.
        n_layers, n_heads, head_dim: of the decoder, for the cache's shape.
        hidden_size: channels of the encoder's states and of the decoder.
        max_tokens: positions, the prompt's included.
        beam_size: hypotheses that are followed. ctc_weight, lm_weight: of the CTC and language model scores
            beside the decoder's. word_bonus: natural log added for every word.
        end_weight, letter_share, letter_tolerance, unheard_weight: see engine.two_pass.search.JointSettings.
        confidence: how scores become confidences, as it was calibrated for this model.
    """

    vocab_size: Positive
    prompt: Annotated[tuple[Natural, ...], msgspec.Meta(max_length=1024)]
    end_id: Natural
    no_speech_id: Natural
    n_layers: Layers
    n_heads: Size
    head_dim: Size
    hidden_size: Size
    max_tokens: Size = 448
    beam_size: Beams = 5
    ctc_weight: Share = 0.1
    lm_weight: Weight = 0.1
    word_bonus: Share = 0.5
    end_weight: Share = 0.5
    letter_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3
    letter_tolerance: Share = 3.0
    unheard_weight: Share = 0.5
    confidence: dict[str, Any] = {}
    precision: str = "fp32"
    opset: Positive = 18
    exporter: dict[str, str] = {}
    figures: dict[str, Any] = {}


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a bundle: its role, plain name, lower-case hex SHA-256 and size in bytes."""

    role: str
    path: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    bytes: Bytes


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of manifest.json."""

    schema_version: int
    name: str
    licence: str
    files: list[FileEntry]
    acoustic: AcousticConfig | None = None
    decoding: DecodingConfig = DecodingConfig()
    translation: TranslationConfig | None = None
    figures: dict[str, Any] = {}
    second_pass: SecondPassConfig | None = None
