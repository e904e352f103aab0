"""This project's encoder in a process of its own, for its memory: `engine_encoder.py --model NAME PATH`.

NAME is one of benchmarks.peers.our_encoder.NAMES, PATH the graph that it runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from peer_worker import Loaded, Peer, serve


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--model", nargs=2, metavar=("NAME", "PATH"), required=True)


def load(options: argparse.Namespace) -> Loaded:
    """The one system that the command line names."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from benchmarks.peers.our_encoder import kernel_level, open_systems

    name, path = options.model
    return Loaded(open_systems({name: Path(path)}), {"kernels": kernel_level()})


if __name__ == "__main__":
    serve(Peer("engine", "encoder", "engine", configure, lambda options: [options.model[0]], load))
