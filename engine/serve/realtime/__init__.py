"""Sessions over a WebSocket: OpenAI's realtime transcription, with translations and word times."""
