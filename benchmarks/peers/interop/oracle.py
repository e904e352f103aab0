"""What the other packages make of the cases; runs in their environment, which the engine is not part of.

    oracle.py models FOLDER   checkpoints of random weights, `optimum-cli export onnx`, logits by transformers
    oracle.py decode FOLDER   pyctcdecode, alone and in transformers' processor, and its peers
    oracle.py kenlm FOLDER    scores of the kenlm package

FOLDER holds cases.json and what that names (see cases.py); the answers are written beside it.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    *("optimum", "optimum-onnx", "transformers", "torch", "onnx", "onnxruntime", "numpy"),
    *("pyctcdecode", "kenlm", "ctc-beam-decoder", "flashlight-text"),
)
N_BEST, SPECIAL = 10, ("<s>", "</s>", "<unk>")
EXPORT_S = 900


def make_models(folder: Path) -> dict[str, Any]:
    """Save, export and run each checkpoint of the cases; logits go to models/NAME.npz."""
    import onnxruntime
    import torch
    import transformers

    found: dict[str, Any] = {}
    waveforms = np.load(folder / "waveforms.npz")
    for name, settings in read_cases(folder)["models"].items():
        checkpoint, exported = folder / "models" / name / "checkpoint", folder / "models" / name / "onnx"
        torch.manual_seed(0)
        config = transformers.Wav2Vec2Config(**settings["config"])
        model = transformers.Wav2Vec2ForCTC(config).eval()
        with torch.no_grad():  # random weights alone would write one label in every frame
            model.lm_head.weight.mul_(settings["sharpen"])
        save_checkpoint(checkpoint, model, settings)
        command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "onnx"]
        command += ["--model", str(checkpoint), "--task", "automatic-speech-recognition", str(exported)]
        subprocess.run(command, check=True, timeout=EXPORT_S, stdout=sys.stderr)
        session = onnxruntime.InferenceSession(
            str(exported / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        processor = transformers.Wav2Vec2Processor.from_pretrained(str(checkpoint))
        arrays, texts = {}, {}
        for clip, waveform in waveforms.items():
            inputs = processor(waveform, sampling_rate=16_000, return_tensors="np").input_values
            with torch.inference_mode():
                logits = model(torch.from_numpy(inputs)).logits[0].numpy()
            arrays[clip] = logits
            (arrays[f"{clip}.onnxruntime"],) = (row[0] for row in session.run(None, {"input_values": inputs}))
            texts[clip] = processor.batch_decode(best_spoken(logits, settings["labels"])[None])[0]
        np.savez(folder / "models" / f"{name}.npz", **arrays)
        found[name] = {"greedy": texts, "files": sorted(path.name for path in exported.iterdir())}
    return found


def best_spoken(logits: Any, labels: Any) -> Any:
    """The best label of each frame [n_frames], as the engine chooses it: none of <s> and its like."""
    special = [index for index, label in enumerate(labels) if label in SPECIAL]
    spoken = logits.copy()
    spoken[:, special] = -np.inf
    return spoken.argmax(axis=-1)


def save_checkpoint(folder: Path, model: Any, settings: dict[str, Any]) -> None:
    """Write weights, tokenizer and extractor in save_pretrained form."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokens = {label: index for index, label in enumerate(settings["labels"])}
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    model.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=settings["mask"]
    )
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), word_delimiter_token=settings["word_delimiter"]
    )
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)


def decode_cases(folder: Path) -> dict[str, Any]:
    """Beams of every case, and one text of each peer."""
    cases = read_cases(folder)
    found: dict[str, Any] = {}
    for name, case in cases["decoding"].items():
        emissions = [array for _, array in sorted(np.load(folder / case["logits"]).items())]
        labels = ["" if label == "<pad>" else " " if label == "|" else label for label in case["labels"]]
        model = str(folder / case["language_model"]) if case["language_model"] else None
        words = (folder / case["words"]).read_text(encoding="utf-8").split() if model else None
        arguments = {"alpha": 0.5, "beta": 1.5} if model else {}
        found[name] = {"pyctcdecode": read_pyctcdecode(labels, model, words, arguments, emissions, case)}
        found[name] |= {"peers": read_peers(labels, model, words, arguments, emissions, case, folder)}
    found["processor"] = read_with_processor(folder, cases["processor"])
    return found


def read_pyctcdecode(
    labels: Any, model: Any, words: Any, arguments: Any, emissions: Any, case: Any
) -> list[Any]:
    """The ten best: text, word frames, acoustic score, score."""
    from pyctcdecode import build_ctcdecoder

    decoder = build_ctcdecoder(labels, model, words, **arguments)
    beams = [decoder.decode_beams(each, **case["options"])[:N_BEST] for each in emissions]
    return [
        [[b[0], [[w, *map(int, f)] for w, f in b[2]], round(b[3], 5), round(b[4], 5)] for b in each]
        for each in beams
    ]


def read_peers(
    labels: Any, model: Any, words: Any, arguments: Any, emissions: Any, case: Any, folder: Path
) -> dict[str, Any]:
    """Best texts of ctc-beam-decoder and flashlight, or the reason why there are none."""
    texts: dict[str, Any] = {}
    try:
        import ctc_beam_decoder

        decoder = ctc_beam_decoder.build_ctcdecoder(labels, model, words, **arguments)
        texts["ctc-beam-decoder"] = [decoder.decode(each, **case["options"]).strip() for each in emissions]
    except Exception as error:  # a peer's fault must not hide the others'
        texts["ctc-beam-decoder"] = f"{type(error).__name__}: {error}"
    if model is not None and " " in labels and not case["options"].get("hotwords"):
        try:
            texts["flashlight-text"] = read_flashlight(labels, model, words, emissions, case)
        except Exception as error:
            texts["flashlight-text"] = f"{type(error).__name__}: {error}"
    return texts


def read_flashlight(labels: Any, model: str, words: Any, emissions: Any, case: Any) -> list[str]:
    """Best texts of its lexicon decoder, whose words are the known ones alone."""
    from flashlight.lib.text.decoder import (
        CriterionType,
        KenLM,
        LexiconDecoder,
        LexiconDecoderOptions,
        SmearingMode,
        Trie,
    )  # fmt: skip
    from flashlight.lib.text.dictionary import Dictionary

    spelled = [word for word in words if set(word) <= set(labels)]
    dictionary, space = Dictionary([*spelled, "<unk>"]), labels.index(" ")
    kenlm, trie = KenLM(model, dictionary), Trie(len(labels), space)
    start = kenlm.start(False)
    for number, word in enumerate(spelled):
        _, score = kenlm.score(start, number)
        trie.insert([*(labels.index(letter) for letter in word), space], number, score)
    trie.smear(SmearingMode.MAX)
    natural = 0.5 * np.log(10.0)
    options = LexiconDecoderOptions(
        case["options"]["beam_width"], 32, 25.0, natural, 1.5, -np.inf, 0.0, True, CriterionType.CTC
    )
    blank, unknown = labels.index(""), dictionary.get_index("<unk>")
    decoder = LexiconDecoder(options, trie, kenlm, space, blank, unknown, [], False)
    texts = []
    for logits in emissions:
        shifted = logits - logits.max(axis=1, keepdims=True)
        rows = np.ascontiguousarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float32)
        best = decoder.decode(rows.ctypes.data, len(rows), len(labels))[0]
        texts.append(" ".join(dictionary.get_entry(i) for i in best.words if i >= 0))
    return texts


def read_with_processor(folder: Path, case: Any) -> list[Any]:
    """transformers' Wav2Vec2ProcessorWithLM: text, scores and word offsets of each clip."""
    import transformers
    from pyctcdecode import build_ctcdecoder

    checkpoint = folder / "models" / case["model"] / "checkpoint"
    processor = transformers.Wav2Vec2Processor.from_pretrained(str(checkpoint))
    words = (folder / case["words"]).read_text(encoding="utf-8").split()
    tokens = sorted(processor.tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    decoder = build_ctcdecoder(
        [token for token, _ in tokens], str(folder / case["language_model"]), words, alpha=0.5, beta=1.5
    )
    together = transformers.Wav2Vec2ProcessorWithLM(
        feature_extractor=processor.feature_extractor, tokenizer=processor.tokenizer, decoder=decoder
    )
    saved = folder / "models" / "with_lm"
    shutil.rmtree(saved, ignore_errors=True)  # pyctcdecode refuses a folder that is there
    together.save_pretrained(str(saved))
    rows = []
    for clip, logits in np.load(folder / "models" / f"{case['model']}.npz").items():
        if clip.endswith(".onnxruntime"):
            continue
        out = together.decode(logits, beam_width=64, output_word_offsets=True)
        offsets = [[word["word"], word["start_offset"], word["end_offset"]] for word in out.word_offsets]
        rows.append([clip, out.text, offsets, round(out.logit_score, 5), round(out.lm_score, 5)])
    return rows


def score_sentences(folder: Path) -> dict[str, Any]:
    """log10 scores of every word by the kenlm package, for each language model."""
    import kenlm

    case, found = read_cases(folder)["kenlm"], {}
    for name, path in case["models"].items():
        model = kenlm.Model(str(folder / path))
        found[name] = {
            "order": model.order,
            "scores": [
                [[round(score, 6), length] for score, length, _ in model.full_scores(sentence)]
                for sentence in case["sentences"]
            ],
        }
    return found


def read_cases(folder: Path) -> Any:
    """What is to be done."""
    return json.loads((folder / "cases.json").read_text(encoding="utf-8"))


def main() -> None:
    """Answer one question and write NAME.json."""
    verb, folder = sys.argv[1], Path(sys.argv[2])
    answers = {"models": make_models, "decode": decode_cases, "kenlm": score_sentences}[verb](folder)
    versions = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    content = json.dumps({"versions": versions, "answers": answers}, ensure_ascii=False)
    beside = folder / f"{verb}.json.new"
    beside.write_text(content, encoding="utf-8")
    beside.replace(folder / f"{verb}.json")


if __name__ == "__main__":
    main()
