"""Runs `engine-train asr` and writes a line for every step; may kill itself behind one, without warning.

python -m tests.reference.recorded_training CONFIG LOG STEP
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import training.common.metrics
from training.asr import trainer
from training.cli import main


def recording(log: Path, kill_at: int) -> Callable[[Any, Any], Any]:
    """What AsrTrainer.step does, and a line of JSON: step, lengths of the clips, loss."""
    step = trainer.AsrTrainer.step

    def recorded(self: Any, pending: Any) -> Any:
        batches = pending.result()
        report = step(self, batches)
        lengths = [batch.lengths.tolist() for batch in batches]
        with log.open("a") as file:
            print(json.dumps([report.step, lengths, report.loss]), file=file)
        if report.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return report

    return recorded


if __name__ == "__main__":
    training.common.metrics._open_tensorboard = lambda folder: None  # type: ignore[assignment]
    trainer.RunLog.draw = lambda self: None  # type: ignore[method-assign]
    trainer.AsrTrainer.step = recording(Path(sys.argv[2]), int(sys.argv[3]))  # type: ignore[method-assign]
    sys.exit(main(["asr", "--config", sys.argv[1]]))
