"""Speech to text for home assistants, by the Wyoming protocol over TCP (extra [wyoming])."""

from engine.serve.wyoming.server import WyomingServer
from engine.serve.wyoming.settings import WyomingSettings

__all__ = ["WyomingServer", "WyomingSettings"]
