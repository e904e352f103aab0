"""Batches prepared in advance: read, augmented and padded by threads while the model computes."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from training.asr.config import AsrConfig
from training.asr.networks import Network
from training.common.augment import AugmentConfig, Augmenter
from training.common.data import BucketSampler, Sample, encode_text, load_waveform


class Group(NamedTuple):
    """The micro batches of one optimiser step, being prepared.

    Attributes:
        epoch, batch: place of its last micro batch.
        batches: future of a list of batches.
    """

    epoch: int
    batch: int
    batches: concurrent.futures.Future[list[Any]]


class Loader:
    """Reads what the sampler asks for; all random choices depend on (seed, epoch, index) only."""

    def __init__(
        self, config: AsrConfig, network: Network, vocabulary: dict[str, int], samples: Sequence[Sample],
        rank: int = 0, world: int = 1, excluded: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.config, self.network, self.vocabulary = config, network, vocabulary
        self.samples, self.rank, self.world, self.excluded = list(samples), rank, world, excluded
        durations = [sample.duration_s for sample in samples]
        self.sampler = BucketSampler(
            durations, config.batch_s, config.seed, config.max_batch, config.sorted_epochs
        )
        self.augmenter = Augmenter(AugmentConfig(noise_dir=config.noise_dir))

    def load(self, indices: Sequence[int], epoch: int) -> Any:
        """Read, augment and pad some clips, those of `excluded` left out."""
        kept = [index for index in indices if str(self.samples[index].path) not in self.excluded]
        waveforms, labels = [], []
        for index in kept:
            sample = self.samples[index]
            rng = np.random.default_rng((self.config.seed, epoch, index))
            waveform = load_waveform(sample)
            if rng.random() < self.config.augment:
                changed = self.augmenter(waveform, rng)
                waveform = changed if changed.size >= 0.88 * waveform.size else waveform
            waveforms.append(waveform)
            labels.append(encode_text(sample.text, self.vocabulary))
        return dataclasses.replace(self.network.make_batch(waveforms, labels), clips=tuple(kept))

    def _is_empty(self, indices: Sequence[int]) -> bool:
        return all(str(self.samples[index].path) in self.excluded for index in indices)

    def groups(self, epoch: int, batch: int) -> Generator[Group]:
        """Yield groups from a position on, without end, with `config.prefetch` of them loading in advance."""
        ahead: collections.deque[Group] = collections.deque()
        pool = concurrent.futures.ThreadPoolExecutor(self.config.workers, thread_name_prefix="loader")
        try:
            for last_epoch, place, group in self._index_groups(epoch, batch):
                batches = pool.submit(self._load_group, group)
                ahead.append(Group(last_epoch, place, batches))
                if len(ahead) > self.config.prefetch:
                    yield ahead.popleft()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load_group(self, group: Sequence[tuple[int, list[int]]]) -> list[Any]:
        return [self.load(indices, epoch) for epoch, indices in group if not self._is_empty(indices)]

    def _index_groups(self, epoch: int, batch: int) -> Iterator[tuple[int, int, list[tuple[int, list[int]]]]]:
        held: list[tuple[int, list[int]]] = []
        for at, place, indices in self.sampler.batches_from(epoch, batch):
            held.append((at, indices[self.rank :: self.world]))  # a rank's share may be empty
            if len(held) == self.config.accumulate:
                yield at, place, held
                held = []
