"""The batches that a DataLoader's workers make: one row each, in a file of the worker's own below ``loader/``.

They stand beside the trail and not in it: workers fetch ahead, so that how many batches they have made when a script
stops reading is a matter of time. A replay compares what both have, to say which worker made another batch, and whether
its generators were in another state before.
"""

from __future__ import annotations

import functools
import os
import time
from types import ModuleType
from typing import Any

import torch
import xxhash

from repro.record import trail as form
from repro.worker import bits
from repro.worker.batches import leaves, of_value
from repro.worker.generators import Generators
from repro.worker.imports import when_imported
from repro.worker.job import Job, place
from repro.worker.ledger import Ledger


def install(job: Job) -> None:
    """Watch what the workers of every DataLoader fetch."""
    when_imported("torch.utils.data._utils.fetch", lambda module: _on_fetch(module, job))


def _on_fetch(module: ModuleType, job: Job) -> None:
    for name in ("_MapDatasetFetcher", "_IterableDatasetFetcher"):
        kind = getattr(module, name)
        kind.fetch = _watched(kind.fetch, job)


def _watched(original: Any, job: Job) -> Any:
    rows: dict[int, _Rows] = {}  # by process: a forked child finds that of its parent, and makes its own

    @functools.wraps(original)
    def fetch(fetcher: Any, index: Any) -> Any:
        info = torch.utils.data.get_worker_info()
        if info is None:
            return original(fetcher, index)
        mine = rows.get(os.getpid())
        try:
            if mine is None:
                mine = rows[os.getpid()] = _Rows(job, info.id)
            before = mine.generators.digest()
        except Exception:
            return original(fetcher, index)
        batch = original(fetcher, index)
        mine.write(before, batch)
        return batch

    return fetch


class _Rows:
    """The rows of one worker: the state of its generators before each batch, and the batch."""

    def __init__(self, job: Job, number: int) -> None:
        folder = os.path.join(job.folder, "loader")
        os.makedirs(folder, exist_ok=True)
        self.generators = Generators()
        self._rows = Ledger(os.path.join(folder, f"{place()}-{time.time_ns():019d}-{os.getpid()}-{number:04d}.rows"))
        self._chain = form.NO_CHAIN
        self._count = 0

    def write(self, generators: int, batch: Any) -> None:
        """Append the row of one batch; nothing is raised into the script."""
        try:
            columns = [0] * len(form.COLUMNS)
            columns[form.GENERATORS] = generators
            columns[form.BATCH] = _digest(batch)
            frame = form.Frame(self._count, 0, form.BATCH_SEEN, 0, tuple(columns), self._chain)
            self._chain = xxhash.xxh3_128_digest(form.pack(frame))
            self._rows.append(form.pack(frame._replace(chain=self._chain)))
            self._count += 1
        except Exception:
            return


def _digest(batch: Any) -> int:
    found = []
    for leaf in leaves(batch):
        is_tensor = isinstance(leaf, torch.Tensor)
        found.append(bits.of_argument(leaf) if is_tensor else of_value(leaf))
    return bits.combine(found)
