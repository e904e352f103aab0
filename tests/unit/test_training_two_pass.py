"""Whisper with two passes: vocabulary, weights, examples, and a run of a few steps that is resumed."""

import json

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from training.cli import main  # noqa: E402
from training.common.augment import AugmentConfig, Augmenter  # noqa: E402
from training.common.data import Sample  # noqa: E402
from training.whisper.batches import IGNORED, pad_tokens  # noqa: E402
from training.whisper.checkpoint import load_two_pass, load_whisper_decoder  # noqa: E402
from training.whisper.evaluation import decode_greedy, evaluate  # noqa: E402
from training.whisper.examples import ExampleConfig, ExampleMaker, written_text  # noqa: E402
from training.whisper.train import TwoPass  # noqa: E402
from training.whisper.vocabulary import N_SPECIAL, cut_vocabulary, open_tokenizer  # noqa: E402
from training.whisper.weights import WeightsError  # noqa: E402

TEXTS = [
    "Der Hund schläft.",
    "Äpfel und Öl kosten viel.",
    "Wo ist der Zug nach Köln?",
    "Das ist gut, sehr gut!",
]
SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|de|>",
    "<|transcribe|>",
    "<|notimestamps|>",
    "<|nocaptions|>",
]


@pytest.fixture(scope="module", params=[80, 128], ids=["base", "large-v3"])
def whisper(request, tmp_path_factory):
    """A folder of a tiny Whisper, as transformers saves it; 80 mel bands, or 128 as in large-v3."""
    folder = tmp_path_factory.mktemp("whisper")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(), d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
        num_mel_bins=request.param, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1,
    )  # fmt: skip
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A manifest of four clips of noise with texts."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lines = ["path\ttext_de"]
    for number, text in enumerate(TEXTS):
        soundfile.write(folder / f"{number}.wav", rng.standard_normal(24_000) * 0.1, 16_000)
        lines.append(f"{number}.wav\t{text}")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return folder


def test_cut_vocabulary_spells_german_and_no_digits(whisper):
    vocabulary = cut_vocabulary(open_tokenizer(whisper), [*TEXTS, "7 Zwerge"], min_count=1)
    assert list(vocabulary.tokens[:N_SPECIAL]) == SPECIAL
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens)
    assert not any(char.isdigit() for token in vocabulary.tokens[N_SPECIAL:] for char in token)
    tokenizer = open_tokenizer(whisper)
    for text in [*TEXTS, "Übergrößen", "Straße"]:  # words that are not in the texts are spelled
        assert vocabulary.decode(vocabulary.encode(text, tokenizer)) == text


def test_vocabulary_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsError, match="not a tokenizer"):
        open_tokenizer(tmp_path)


@torch.no_grad()
def test_decoder_computes_what_transformers_does(whisper):
    vocabulary = cut_vocabulary(open_tokenizer(whisper), TEXTS, min_count=1)
    decoder = load_whisper_decoder(whisper, vocabulary)
    original = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    whole = [index for index, ids in enumerate(vocabulary.sources) if len(ids) == 1]
    tokens, states = torch.tensor([[1, 2, 3, 4, *whole[10:20]]]), torch.randn(1, 30, 32)
    sources = torch.tensor([[vocabulary.sources[index][0] for index in tokens[0]]])
    hidden = original.model.decoder(input_ids=sources, encoder_hidden_states=states).last_hidden_state
    expected = original.proj_out(hidden)[..., [vocabulary.sources[index][0] for index in whole]]
    assert torch.allclose(decoder(tokens, states)[..., whole], expected, atol=1e-4)


@torch.no_grad()
def test_padding_of_states_is_not_seen(whisper):
    decoder = load_whisper_decoder(whisper, cut_vocabulary(open_tokenizer(whisper), TEXTS, min_count=1))
    tokens, states = torch.tensor([[1, 2, 3, 4, 9, 8]]), torch.randn(1, 20, 32)
    padded = torch.cat([states, torch.randn(1, 7, 32)], dim=1)
    assert torch.allclose(decoder(tokens, states), decoder(tokens, padded, torch.tensor([20])), atol=1e-5)


def test_written_text_says_numbers_and_keeps_case():
    assert (
        written_text("Am 3. Mai 1938 „ging“ er .")
        == 'Am dritten Mai neunzehnhundertachtunddreißig "ging" er.'
    )


def make_examples(corpus, whisper, **options):
    vocabulary = cut_vocabulary(open_tokenizer(whisper), TEXTS, min_count=1)
    samples = [Sample(corpus / f"{number}.wav", text, 1.5) for number, text in enumerate(TEXTS)]
    tokens = [vocabulary.encode(text, open_tokenizer(whisper)) for text in TEXTS]
    maker = ExampleMaker(samples, tokens, Augmenter(AugmentConfig()), vocabulary, ExampleConfig(**options))
    return [maker.make(index, np.random.default_rng(index)) for index in (0, 1, 2, 3)], vocabulary, tokens


def test_examples_are_clips_joined_clips_or_silence(corpus, whisper):
    alone, vocabulary, tokens = make_examples(corpus, whisper, join=0.0, silent=0.0)
    assert [example.source for example in alone] == [0, 1, 2, 3]
    assert alone[1].tokens == [*vocabulary.prompt, *tokens[1], vocabulary.end_id]
    joined, _, _ = make_examples(corpus, whisper, join=1.0, silent=0.0, augment=0.0)
    assert all(example.source == -1 and example.n_frames > 140 for example in joined)
    assert all(len(example.labels) > len(one.labels) for example, one in zip(joined, alone, strict=True))
    silent, _, _ = make_examples(corpus, whisper, silent=1.0)
    assert all(not example.labels and len(example.tokens) == 5 for example in silent)
    assert all(bool(torch.isfinite(example.features).all()) for example in silent)


def test_silence_is_asked_for_at_the_first_token(corpus, whisper):
    silent, vocabulary, _ = make_examples(corpus, whisper, silent=1.0)
    spoken, _, _ = make_examples(corpus, whisper, silent=0.0)
    read, wanted = pad_tokens([silent[0], spoken[0]], vocabulary.no_speech_id)
    assert wanted[0, :4].tolist() == [vocabulary.no_speech_id, IGNORED, IGNORED, vocabulary.end_id]
    assert wanted[1, 0] == vocabulary.prompt[1]
    assert (wanted[0, 4:] == IGNORED).all()
    assert read[1, :4].tolist() == list(vocabulary.prompt)


def train(corpus, whisper, folder, steps):
    return main([
        "from-whisper", "--form", "two-pass", "--whisper", str(whisper), "--train", str(corpus / "train.tsv"),
        "--eval", str(corpus / "train.tsv"), "--text", str(corpus / "texts.txt"), "--min_count", "1",
        "--output_dir", str(folder), "--steps", str(steps), "--eval_every", "2", "--batch_s", "4",
        "--device", "cpu", "--teacher_tail_s", "1",
    ])  # fmt: skip


def test_a_run_saves_evaluates_and_goes_on(corpus, whisper, tmp_path, caplog):
    assert train(corpus, whisper, tmp_path, 2) == 0
    first = load_two_pass(tmp_path / "last")
    assert train(corpus, whisper, tmp_path, 6) == 0
    second = load_two_pass(tmp_path / "last")
    steps = [json.loads(line)["step"] for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]
    changed = [
        name
        for name, p in first.named_parameters()
        if not torch.equal(p, dict(second.named_parameters())[name])
    ]
    assert any("decoder" in name for name in changed)
    assert any("head" in name for name in changed)
    assert not any("conv1" in name for name in changed)
    states = second.ctc.encode(torch.randn(1, second.ctc.config.n_mels, 60))
    logits = second.decoder(torch.tensor([[1, 2, 3, 4]]), states)
    assert bool(torch.isfinite(logits).all())


def test_a_run_without_words_for_the_vocabulary_is_refused(corpus, whisper, tmp_path, caplog):
    code = main(["from-whisper", "--form", "two-pass", "--whisper", str(whisper), "--train",
                 str(corpus / "train.tsv"), "--output_dir", str(tmp_path)])  # fmt: skip
    assert code != 0
    assert "neither --text nor --tokens" in caplog.text


def test_decoding_clips_together_gives_what_each_gives_alone(corpus, whisper, tmp_path):
    assert train(corpus, whisper, tmp_path, 1) == 0
    model: TwoPass = load_two_pass(tmp_path / "last")
    generator = torch.Generator().manual_seed(3)
    states = [torch.randn(n, 32, generator=generator) for n in (40, 12, 71, 25)]
    limits = [9, 4, 30, 1]
    alone = [decode_greedy(model, [each], [limit])[0] for each, limit in zip(states, limits, strict=True)]
    assert decode_greedy(model, states, limits) == alone and any(alone)
    clips = [(torch.randn(n, generator=generator).numpy() * 0.1, "ja gut") for n in (9000, 24_000, 16_000)]
    assert evaluate(model, clips, batch=3) == evaluate(model, clips, batch=1)


def test_a_state_of_an_older_version_is_gone_on_from(corpus, whisper, tmp_path):
    """Once a state had no position and no random states; its step is the number of its batch."""
    assert train(corpus, whisper, tmp_path, 2) == 0
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    older = {name: state[name] for name in ("model", "average")}
    older |= {"optimizer": state["optimizers"][0], "step": 2, "passed_s": 3.0}
    torch.save(older, tmp_path / "state.pt")
    assert train(corpus, whisper, tmp_path, 4) == 0
    assert torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["step"] == 4
