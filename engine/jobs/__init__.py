"""Long recordings, many recordings, live streams, and warm-up."""
