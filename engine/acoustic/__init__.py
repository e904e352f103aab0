"""The encoder: features of one utterance in, natural-log CTC emissions out."""

from engine.acoustic.model import AcousticModel, compute_log_softmax

__all__ = ["AcousticModel", "compute_log_softmax"]
