"""`engine-bench`: quality, speed and regression gates for German speech to text and to English."""
