"""Audio files and arrays to float32 mono at 16 kHz, within limits; where speech is."""

from engine.audio.load import RESAMPLER_QUALITY, SAMPLE_RATE, StreamResampler, Waveform, downmix, load_audio

__all__ = ["RESAMPLER_QUALITY", "SAMPLE_RATE", "StreamResampler", "Waveform", "downmix", "load_audio"]
