"""The engine beside optimum, transformers, pyctcdecode and KenLM's own package: do they still fit together?

`make interop` (python -m benchmarks.peers.interop) builds an environment with those packages, lets them work,
and compares what the engine makes of the same files.
"""
