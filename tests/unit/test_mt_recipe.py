"""The recipe of a translation model: allowed data, byte pieces, two-pass style, a teacher's English."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from engine.bundle.folder import open_bundle, write_bundle  # noqa: E402
from engine.translation.careful import Characters  # noqa: E402
from engine.translation.translator import Translator  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from tests.reference.tiny_marian import checkpoint, text_pairs  # noqa: E402
from training.cli import main  # noqa: E402
from training.common.config import ConfigError  # noqa: E402
from training.mt import assemble, distil  # noqa: E402
from training.mt import data as mt_data  # noqa: E402
from training.mt.config import load_config  # noqa: E402
from training.mt.corpus_filters import HeldOut, find_fault, normalised  # noqa: E402
from training.mt.text_augment import ErrorRates, two_pass_style  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training" / "configs"
LINES = (
    "Das Haus ist alt.\tThe house is old.\ta",
    "Das Haus ist alt!\tThe house is old.\ta",
    "Das Haus ist alt.\tThe house is ancient.\tb",
    "Wir gehen heute alle in den großen Garten.\tWe all go to the big garden today.\ta",
    "Wir gehen heute alle in den großen Garten dort.\tAll of us go there.\ta",
    "Es sind 20 Leute da.\tThere are 30 people.\ta",
    "Nur für die Forschung.\tFor research only.\tr",
    "Ohne Lizenz.\tWithout a licence.\tx",
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def config_of(folder: Path) -> Path:
    write(folder / "s.tsv", *LINES)
    write(folder / "dev.tsv", "1\tWir gehen heute alle in den großen Garten.\tNo, not today.")
    return write(
        folder / "c.yaml",
        f"output_dir: {folder / 'out'}\nsources: [{folder / 's.tsv'}]\nheld_out: [{folder / 'dev.tsv'}]",
        "licences: {a: CC0, b: CC-BY 4.0}\nresearch: {r: research only}",
    )


def test_only_allowed_new_faithful_pairs_are_taken(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert main(["mt-data", "--config", str(config)]) == 0
    taken = mt_data.read_pairs(tmp_path / "out" / "train.tsv.zst")
    assert [(pair.source, pair.origin) for pair in taken] == [("Das Haus ist alt.", "a")]
    rows = [line.split("\t") for line in (tmp_path / "out" / "sources.tsv").read_text("utf-8").splitlines()]
    table = {row[0]: row[1:] for row in rows}
    assert table["a"] == ["CC0", "5", "0", "1", "2", "1", "1"]  # raw licence filtered held_out duplicate kept
    assert table["x"][:3] == ["not listed: left out", "1", "1"] and table["r"][2] == "1"
    assert "all licences allow use in products" in (tmp_path / "out" / "licences.md").read_text("utf-8")
    assert main(["mt-data", "--config", str(config), "--set", "with_research=true"]) == 0
    assert "research use only" in (tmp_path / "out" / "licences.md").read_text("utf-8")
    assert len(mt_data.read_pairs(tmp_path / "out" / "train.tsv.zst")) == 2


def test_configurations_that_cannot_be_used(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(ConfigError, match="a: under licences and under research"):
        assemble.load_config(config, {"research": {"a": "x"}})
    with pytest.raises(ConfigError, match="no pair is left"):
        assemble.assemble(assemble.load_config(config, {"licences": {}}))
    assert not (tmp_path / "out").exists()


def test_the_configurations_that_are_shipped_fit_each_other() -> None:
    data = assemble.load_config(CONFIGS / "mt_data_de_en.yaml")
    assert not data.with_research and set(data.research) == {"wmt_newstest", "multi30k", "newscommentary"}
    for name in ("mt_de_en", "mt_de_en_teacher", "mt_de_en_student"):
        config = load_config(CONFIGS / f"{name}.yaml")
        assert set(config.data.origin_weights) == set(data.licences)
        assert config.model.byte_fallback and config.data.two_pass_share > 0


@pytest.mark.parametrize(
    ("german", "english", "fault"),
    [
        ("Guten Morgen", "Good morning", ""), ("", "x", "empty"), ("a " * 70, "b " * 70, "too long"),
        ("Ja.", "Yes, that is what I have always said to him.", "lengths"),
        ("--- 12", "+++ 12", "no sentence"),
        ("Das Haus ist sehr alt", "das haus ist sehr alt", "not translated"),
        ("The old house over there", "Das ist nicht der Mann mit dem Hund", "German"),
        ("Um halb neun kommen 20 Leute", "At half past eight 30 people come", "another number"),
        ("Es sind 1.500 Leute", "There are 1,500 people", ""),
    ],
)  # fmt: skip
def test_pairs_that_are_no_translations(german: str, english: str, fault: str) -> None:
    found = find_fault(mt_data.Pair(german, english, "x"), 60)
    assert fault in found and bool(fault) == bool(found)


def test_nearly_equal_sentences_are_held_out() -> None:
    held_out = HeldOut(["Der alte Mann ging gestern mit seinem Hund in den Park.", "Ja!"])
    assert held_out.holds(normalised("ja")) and not held_out.holds(normalised("Nein"))
    assert held_out.holds(normalised("der alte Mann ging gestern mit seinem Hund in den Park, oh"))
    assert not held_out.holds(normalised("Der alte Mann ging heute mit seinem Kind in den Zoo."))


def test_two_pass_style_spells_numbers_and_keeps_case() -> None:
    assert two_pass_style("Er hat 20 Hunde.", random.Random(0)) == "Er hat zwanzig Hunde."
    many = [two_pass_style("Der Hund sucht den Garten", random.Random(i), ErrorRates()) for i in range(200)]
    assert 0 < sum(text != "Der Hund sucht den Garten" for text in many) < 60


def test_every_style_is_drawn_by_its_share() -> None:
    folder = checkpoint()
    pairs = [mt_data.Pair(*pair, "x") for pair in text_pairs()[:400]]
    corpus = mt_data.tokenize_corpus(pairs, folder, {}, ErrorRates(), 90, two_pass=True)
    assert corpus.offsets.shape[0] == 4
    shares = {"spoken_share": 0.25, "two_pass_share": 0.5}
    plan = mt_data.epoch_batches(corpus, 0, batch_tokens=4000, seed=0, **shares)
    drawn = Counter(int(side) for _, sides in plan for side in sides)
    total = sum(drawn.values())
    assert set(drawn) == {0, 1, mt_data.TWO_PASS} and 0.15 < drawn[1] / total < 0.35
    assert 0.4 < drawn[mt_data.TWO_PASS] / total < 0.6
    batch = mt_data.collate(corpus, *plan[0], pad_id=239)
    assert len(batch.source) == len(batch.target) == len(plan[0][0])


def test_byte_pieces_lose_nothing_from_training_to_the_engine(tmp_path: Path) -> None:
    data = write(tmp_path / "train.tsv", *(f"{s} 12\t{t} 12\tx" for s, t in text_pairs()))
    config = write(
        tmp_path / "mt.yaml",
        f"output_dir: {tmp_path / 'run'}",
        f"data: {{train: [{data}], dev: {{}}, two_pass_share: 0.5, spoken_share: 0.2}}",
        "model: {vocab_size: 520, byte_fallback: true, fold_case: false, d_model: 16, encoder_layers: 1,",
        "  decoder_layers: 1, attention_heads: 2, ffn_dim: 32, max_positions: 128}",
        "training: {max_steps: 2, batch_tokens: 512, warmup_steps: 1, gate_tokens: 0}",
    )
    assert main(["mt", "--config", str(config)]) == 0
    from export.translation.marian import export_marian

    done = export_marian(tmp_path / "run" / "final", tmp_path / "exported", precision="fp32")
    write_bundle(
        tmp_path / "bundle", name="b", licence="x", files=dict(done.files), translation=done.config, card="b"
    )
    translator = Translator(open_bundle(tmp_path / "bundle"), RuntimeOptions(device="cpu", threads=1))
    tokenizer = translator.tokenizer
    assert len(tokenizer.byte_ids) == 256
    for text in ("Łódź 👍 1234", "Der Hund", "ABC abc"):
        (ids,) = tokenizer.encode([text])
        assert tokenizer.unk_id not in ids and tokenizer.decode(ids) == text
    characters = Characters(tokenizer)
    assert not characters.knows("Ł") and characters.knows("H")  # bytes are a fallback, not knowledge
    assert "👍" in translator.translate_paragraphs(["Der Hund 👍 sucht"])[0].text


def test_a_teacher_writes_the_english_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(s, t) for s, t in text_pairs()[:12]]
    data = write(tmp_path / "in.tsv", *(f"{s}\t{t}\tx" for s, t in pairs))
    out, teacher = tmp_path / "out.tsv", str(checkpoint(logits_bias=True))
    monkeypatch.setattr(distil, "MAX_TARGET", 8)
    run = ["mt-distil", "--teacher", teacher, "--data", str(data), "--out", str(out), "--beams", "1"]
    assert main([*run, "--batch_tokens", "60", "--minutes", "0.0000001"]) == 0
    first = out.read_text(encoding="utf-8")
    assert 0 < first.count("\n") < len(pairs)
    out.write_text(first + "cut off", encoding="utf-8")
    assert main([*run, "--batch_tokens", "60"]) == 0
    whole = out.read_text(encoding="utf-8")
    assert whole.startswith(first) and whole.count("\n") == len(pairs)
    assert sorted(line.split("\t")[0] for line in whole.splitlines()) == sorted(s for s, _ in pairs)
    write(out, "other\ttext\tx")
    assert main(run) == 1


def test_an_unfaithful_teacher_is_not_followed() -> None:
    pair = mt_data.Pair("Es sind 20 Leute.", "There are 20 people.", "x")
    assert distil.choose(pair, "Twenty people are here.") == "Twenty people are here."
    for english in ("There are 30 people.", "", "20 20 20 20 people", "There are 20 people " * 4):
        assert distil.choose(pair, english) == pair.target
