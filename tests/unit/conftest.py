"""What several tests of training share."""

from __future__ import annotations

import pytest


@pytest.fixture
def light_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread; no TensorBoard and no matplotlib, which take seconds to import."""
    import torch

    monkeypatch.setattr("training.common.metrics._open_tensorboard", lambda folder: None)
    monkeypatch.setattr("training.asr.trainer.RunLog.draw", lambda self: None)
    torch.set_num_threads(1)
