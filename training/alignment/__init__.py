"""Long recordings with approximate text: spoken forms, forced alignment, utterances cut at pauses."""
