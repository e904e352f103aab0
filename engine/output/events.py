"""Events of streams as JSON."""

from __future__ import annotations

from typing import Any

from engine.output.formats import DECIMALS, word_dict
from engine.types import StreamEvent


def event_to_dict(event: StreamEvent) -> dict[str, Any]:
    """An event of plain Python values, as `engine stream --output_format jsonl` writes it, one a line."""
    found: dict[str, Any] = {
        "kind": event.kind,
        "start": round(event.start_s, DECIMALS),
        "end": round(event.end_s, DECIMALS),
        "text": event.text,
        "segment_id": event.segment_id,
        "is_endpoint": event.is_endpoint,
        "position": round(event.position_s, DECIMALS),
        "lag": round(event.lag_s, DECIMALS),
    }
    if event.segment is not None:
        found["confidence"] = round(event.segment.confidence, DECIMALS)
    if event.kind == "translation":
        found["warnings"] = list(event.warnings)
    if event.words:
        found["words"] = [word_dict(word) for word in event.words]
    return found
