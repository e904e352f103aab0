"""Features: waveform normalisation, log-mel, filterbank, real FFTs."""
