"""`training mt --config X.yaml`: train or fine-tune a MarianMTModel for German to English."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import GenerationConfig, MarianConfig, MarianMTModel

from engine.output.targets import check_apart
from training.common.checkpoint import CheckpointError
from training.common.config import parse_value
from training.common.watchdog import TrainingStopped
from training.mt import data as mt_data
from training.mt.config import MtConfig, load_config, to_tree
from training.mt.loop import GateError, Hooks, Progress, Trainer, average_weights, checkpoints
from training.mt.model import FastMarian, from_marian, to_marian
from training.mt.text_augment import recogniser_style

logger = logging.getLogger("training")
TOKENIZER_FILES = ("source.spm", "target.spm", "vocab.json")
HUB_FILES = ("config.json", "*.safetensors")
WRITTEN = ("tokenizer", "corpus.npz", "checkpoints", "final")  # in the output folder
GATE_PAIRS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `training mt`."""
    parser.add_argument(
        "--config", required=True, help="a YAML file such as training/configs/mt_de_en_mini.yaml"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key: training.lr=0.01"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint of output_dir"
    )
    parser.add_argument(
        "--finish", action="store_true", help="only average the existing checkpoints and write the model"
    )


def run(args: argparse.Namespace) -> int:
    """Train; 0, or 1 with a message in the log."""
    try:
        train(load_config(args.config, read_overrides(args.set)), resume=args.resume, finish_only=args.finish)
    except (ValueError, OSError, GateError, TrainingStopped) as error:
        logger.error("%s", error)
        return 1
    return 0


def read_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Values by key from KEY=VALUE."""
    pairs = (assignment.partition("=") for assignment in assignments)
    return {key: parse_value(value) for key, _, value in pairs}


def train(config: MtConfig, *, resume: bool = False, finish_only: bool = False) -> Path:
    """Run a configuration from data to the final model.

    Args:
        config: the run.
        resume: continue from the newest checkpoint of config.output_dir.
        finish_only: skip training; average what is there.
    Returns:
        The folder of the final model: safetensors weights, configuration, tokenizer.
    Raises:
        GateError: the model ignored its source. ValueError, OSError: unusable configuration or data.
    """
    device = _join_process_group()
    folder = Path(config.output_dir)
    texts = (*config.data.train, *config.data.dev.values(), *config.data.lexicon_text)
    check_apart(
        [folder / name for name in WRITTEN],
        [*texts, *filter(None, (config.data.lexicon, config.model.init_from))],
    )
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model, tokenizer_dir, corpus = _prepare(config, folder)
    model.to(device)
    torch.manual_seed(config.seed + int(os.environ.get("RANK", "0")))  # dropout differs from rank to rank
    hooks, close = _hooks(config, folder, tokenizer_dir)
    trainer = Trainer(
        model, corpus, config.training, folder,
        spoken_share=config.data.spoken_share, seed=config.seed, hooks=hooks,
        two_pass_share=config.data.two_pass_share,
    )  # fmt: skip
    if not (resume or finish_only) and checkpoints(trainer.folder):
        raise CheckpointError(
            f"{trainer.folder} holds checkpoints of an earlier run", "none for a new run",
            "continue with --resume, or choose another output_dir",
        )  # fmt: skip
    if (resume or finish_only) and not trainer.resume() and finish_only:
        raise ValueError(f"no checkpoint in {folder / 'checkpoints'}; train first")
    try:
        if not finish_only:
            trainer.run()
    finally:
        close()
    return _finish(trainer, tokenizer_dir, folder / "final")


def _join_process_group() -> torch.device:
    """The device of this process; under torchrun it also joins the others."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def _prepare(config: MtConfig, folder: Path) -> tuple[FastMarian, Path, mt_data.TokenizedCorpus]:
    """Model, tokenizer folder and tokenised corpus; rank 0 makes the files, the others wait."""
    if dist.is_initialized() and dist.get_rank() > 0:
        dist.barrier()
    pairs = [pair for path in config.data.train for pair in mt_data.read_pairs(Path(path))]
    tokenizer_dir = (
        checkpoint_folder(config.model.init_from) if config.model.init_from else folder / "tokenizer"
    )
    if not all((tokenizer_dir / name).exists() for name in TOKENIZER_FILES):
        learn_pieces(config, tokenizer_dir, pairs)
    key = (to_tree(config)["data"], to_tree(config)["errors"], (tokenizer_dir / "vocab.json").read_bytes())
    corpus = mt_data.cached_corpus(
        folder / "corpus.npz", key, lambda: _tokenize(config, pairs, tokenizer_dir)
    )
    if dist.is_initialized() and dist.get_rank() == 0:
        dist.barrier()
    return _build_model(config, tokenizer_dir), tokenizer_dir, corpus


def learn_pieces(config: MtConfig, folder: Path, pairs: Sequence[mt_data.Pair] = ()) -> None:
    """Write the tokenizer of a configuration; pairs are its text, read anew if none are given."""
    text = pairs or [pair for path in config.data.train for pair in mt_data.read_pairs(Path(path))]
    weights, draw = dict(config.data.origin_weights), random.Random(config.seed)
    mt_data.train_tokenizer(
        [p for p in text if draw.random() < weights.get(p.origin, 1.0)],
        folder, config.model.vocab_size, config.seed,
        byte_fallback=config.model.byte_fallback, fold_case=config.model.fold_case,
    )  # fmt: skip


def checkpoint_folder(checkpoint: str) -> Path:
    """The local folder of a checkpoint; a hub name such as Helsinki-NLP/opus-mt-de-en is downloaded.

    Raises:
        ValueError: neither a folder nor available from the hub, or its tokenizer is incomplete.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(checkpoint, allow_patterns=[*HUB_FILES, *TOKENIZER_FILES]))
        except Exception as error:  # the hub's errors share no base
            raise ValueError(
                f"{checkpoint!r} is neither a folder nor available from the hub ({type(error).__name__}); "
                "set model.init_from to a folder of save_pretrained or a hub name"
            ) from error
    missing = [name for name in TOKENIZER_FILES if not (folder / name).exists()]
    if missing:
        raise ValueError(
            f"{checkpoint} has no {', '.join(missing)}; save the tokenizer into the model's folder"
        )
    return folder


def _tokenize(config: MtConfig, pairs: list[mt_data.Pair], tokenizer_dir: Path) -> mt_data.TokenizedCorpus:
    data = config.data
    if data.lexicon:
        pairs = pairs + mt_data.read_lexicon(Path(data.lexicon), [Path(p) for p in data.lexicon_text])
    pairs = pairs + mt_data.join_pairs(pairs, data.origin_weights, data.joined, random.Random(config.seed))
    return mt_data.tokenize_corpus(
        pairs, tokenizer_dir, data.origin_weights, config.errors, data.max_tokens, config.seed,
        two_pass=data.two_pass_share > 0, sample_pieces=data.sample_pieces,
    )  # fmt: skip


def _build_model(config: MtConfig, tokenizer_dir: Path) -> FastMarian:
    if config.model.init_from:
        model = from_marian(MarianMTModel.from_pretrained(tokenizer_dir, dtype=torch.float32))
    else:
        vocab_size = len(json.loads((tokenizer_dir / "vocab.json").read_text(encoding="utf-8")))
        model = FastMarian(marian_config(config, vocab_size))
        model.scale_branches(config.model.branch_scale)
    model.set_dropout(config.model.dropout)
    return model


def marian_config(config: MtConfig, vocab_size: int) -> MarianConfig:
    """The MarianConfig of a new model; <pad> is the last piece."""
    m = config.model
    return MarianConfig(
        vocab_size=vocab_size, d_model=m.d_model, activation_function=m.activation, dropout=0.0,
        encoder_layers=m.encoder_layers, decoder_layers=m.decoder_layers,
        encoder_attention_heads=m.attention_heads, decoder_attention_heads=m.attention_heads,
        encoder_ffn_dim=m.ffn_dim, decoder_ffn_dim=m.ffn_dim, max_position_embeddings=m.max_positions,
        scale_embedding=True, share_encoder_decoder_embeddings=True, tie_word_embeddings=True,
        pad_token_id=vocab_size - 1, decoder_start_token_id=vocab_size - 1, eos_token_id=mt_data.EOS_ID,
        bos_token_id=None, forced_eos_token_id=None, num_beams=4,
    )  # fmt: skip


def _hooks(config: MtConfig, folder: Path, tokenizer_dir: Path) -> tuple[Hooks, Any]:
    """Evaluation, logging and gate of a run, and the function that closes them."""
    dev = {
        name: mt_data.read_dev_set(Path(p), config.training.eval_sentences)
        for name, p in config.data.dev.items()
    }
    gate = _gate_batches(config, tokenizer_dir)
    if dist.is_initialized() and dist.get_rank() > 0:
        return Hooks(gate_batches=gate), lambda: None
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    writer = SummaryWriter(str(folder / "tensorboard"))
    bar = tqdm(
        total=100.0, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}", mininterval=10
    )

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        bar.n = round(100 * values.get("share_done", bar.n / 100), 1)
        shown = {k: round(v, 3) for k, v in values.items() if k != "share_done"}
        bar.set_postfix(shown, refresh=False)
        logger.info("step %d %s", step, shown)

    def evaluate(model: FastMarian, progress: Progress) -> float:
        scores = evaluate_sets(to_marian(model), tokenizer_dir, dev)
        log(progress.step, scores)
        return next((v for k, v in scores.items() if k.endswith("chrf")), 0.0)

    def close() -> None:
        bar.close()
        writer.close()

    return Hooks(evaluate if dev else None, log, gate), close


def _gate_batches(config: MtConfig, tokenizer_dir: Path) -> list[mt_data.Batch]:
    """Batches of development pairs of similar lengths."""
    pairs = [
        mt_data.Pair(source, target, name)
        for name, path in config.data.dev.items()
        for source, target in mt_data.read_dev_set(Path(path), GATE_PAIRS)
    ]
    if not pairs:
        return []
    vocab = json.loads((tokenizer_dir / "vocab.json").read_text(encoding="utf-8"))
    corpus = mt_data.tokenize_corpus(pairs, tokenizer_dir, {}, config.errors, config.data.max_tokens)
    plan = mt_data.epoch_batches(corpus, 0, batch_tokens=2048, spoken_share=0.5, seed=0)
    return [mt_data.collate(corpus, rows, sides, vocab[mt_data.PAD_PIECE]) for rows, sides in plan]


def evaluate_sets(
    model: MarianMTModel,
    tokenizer_dir: Path,
    dev: Mapping[str, Sequence[tuple[str, str]]],
    num_beams: int = 1,
) -> dict[str, float]:
    """sacreBLEU and chrF of every development set, from written and from recogniser-style sources.

    Returns:
        Scores by "<set>/<written|spoken>/<bleu|chrf>".
    """
    import sacrebleu

    scores = {}
    for name, rows in dev.items():
        references = [target for _, target in rows]
        for style in ("written", "spoken"):
            rng = random.Random(0)
            sources = [s if style == "written" else recogniser_style(s, rng) for s, _ in rows]
            outputs = translate(model, tokenizer_dir, sources, num_beams)
            scores[f"{name}/{style}/bleu"] = sacrebleu.corpus_bleu(outputs, [references]).score
            scores[f"{name}/{style}/chrf"] = sacrebleu.corpus_chrf(outputs, [references]).score
    return scores


def translate(
    model: MarianMTModel,
    tokenizer_dir: Path,
    sources: Sequence[str],
    num_beams: int = 1,
    batch_size: int = 64,
) -> list[str]:
    """Translate with transformers' generate: the slow reference of the runtime."""
    import sentencepiece as spm

    source = spm.SentencePieceProcessor(model_file=str(tokenizer_dir / "source.spm"))
    target = spm.SentencePieceProcessor(model_file=str(tokenizer_dir / "target.spm"))
    encoded = [[*source.encode(text)[:200], mt_data.EOS_ID] for text in sources]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    outputs = [""] * len(encoded)
    pad_id = model.config.pad_token_id
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(encoded[i]) for i in rows)
        ids = torch.tensor([encoded[i] + [pad_id] * (width - len(encoded[i])) for i in rows])
        generated = model.generate(
            input_ids=ids, attention_mask=(ids != pad_id).long(), num_beams=num_beams,
            do_sample=False, max_new_tokens=min(width * 2 + 10, 200), bad_words_ids=[[pad_id]],
        )  # fmt: skip
        for i, tokens in zip(rows, generated.tolist(), strict=True):
            outputs[i] = target.decode([t for t in tokens if t not in (pad_id, mt_data.EOS_ID)])
    return outputs


def _finish(trainer: Trainer, tokenizer_dir: Path, folder: Path) -> Path:
    """Average the last checkpoints and write the final model with its tokenizer."""
    if trainer.rank != 0:
        return folder
    model = FastMarian(trainer.model.config)
    averaged = checkpoints(trainer.folder)[-max(1, trainer.config.average_checkpoints) :]
    model.load_state_dict(average_weights(averaged))
    marian = to_marian(model)
    pad_id = model.pad_id
    marian.generation_config = GenerationConfig(
        num_beams=4, max_length=200, bad_words_ids=[[pad_id]], pad_token_id=pad_id,
        eos_token_id=mt_data.EOS_ID, decoder_start_token_id=pad_id,
    )  # fmt: skip
    marian.save_pretrained(folder, safe_serialization=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_dir / name, folder / name)
    tokenizer = {
        "tokenizer_class": "MarianTokenizer", "source_lang": "de", "target_lang": "en",
        "model_max_length": model.config.max_position_embeddings, "separate_vocabs": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2), encoding="utf-8")
    logger.info("final model in %s", folder)
    return folder
