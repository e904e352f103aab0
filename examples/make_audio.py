"""Speak the examples anew (needs node): python examples/make_audio.py PICO_PACKAGE_DIR PICO_LINGWARE_DIR."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import soundfile

from training.synthesis.voices import SAMPLE_RATE, PicoEngine, Voice

HERE = Path(__file__).resolve().parent
VOICE = Voice("example", "pico", "", f0_hz=195.0, formant=1.0, tempo=1.0, held_out=True)
PAUSE_S = 0.7

CLIPS = (
    ("visit.flac",
     ["Morgen besuchen wir meine Großmutter und bringen ihr frische Blumen mit."],
     "Tomorrow we will visit my grandmother and bring her fresh flowers."),
    ("station.flac",
     ["Der Zug nach Hamburg fährt heute leider erst um halb neun ab."],
     "Unfortunately, the train to Hamburg does not leave until half past eight today."),
    ("sunday.flac",
     ["Am Sonntag sind wir früh aufgestanden, weil die Sonne schien.",
      "Nach dem Frühstück haben wir die Fahrräder aus dem Keller geholt.",
      "Der Weg führte am Fluss entlang bis zu einem kleinen Dorf.",
      "Dort gab es einen Markt mit Käse, Brot und Honig.",
      "Meine Schwester kaufte ein großes Glas Honig für unsere Nachbarn.",
      "Gegen Mittag wurde es sehr warm, und wir suchten uns einen Platz im Schatten.",
      "Auf dem Rückweg hatte mein Vater einen platten Reifen.",
      "Zum Glück hat uns ein freundlicher Mann mit seiner Pumpe geholfen.",
      "Am Abend waren wir müde, aber sehr zufrieden."],
     "On Sunday we got up early because the sun was shining. After breakfast we fetched the bicycles from the "
     "cellar. The path led along the river to a small village. There was a market with cheese, bread and honey. "
     "My sister bought a large jar of honey for our neighbours. Around noon it became very warm, and we looked "
     "for a place in the shade. On the way back my father had a flat tyre. Fortunately a friendly man helped us "
     "with his pump. In the evening we were tired but very content."),
)  # fmt: skip


def main(package_dir: Path, lingware_dir: Path) -> None:
    """Write examples/audio/*.flac and examples/manifest.tsv."""
    pico = PicoEngine(package_dir, lingware_dir)
    rows = ["path\ttext_de\ttext_en"]
    (HERE / "audio").mkdir(exist_ok=True)
    for name, sentences, english in CLIPS:
        pieces = []
        for number, sentence in enumerate(sentences):
            spoken = pico.speak(sentence, VOICE, random.Random(number))
            if spoken is None:
                raise RuntimeError(f"Pico could not say {sentence!r}")
            pieces += [spoken, np.zeros(int(PAUSE_S * SAMPLE_RATE), np.float32)]
        soundfile.write(HERE / "audio" / name, np.concatenate(pieces[:-1]), SAMPLE_RATE, "PCM_16")
        rows.append(f"audio/{name}\t{' '.join(sentences)}\t{english}")
    (HERE / "manifest.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    pico.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
