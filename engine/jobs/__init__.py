"""Long recordings, many recordings, and live streams."""
