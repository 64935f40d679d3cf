"""Seeds of the global generators, and the user's own seeding: left alone, and recorded with the line that made it.

Each process draws from a place of its own: its rank, and whose child it is (`repro.worker.places`). What would come
from the operating system's entropy under plain python comes from the master seed instead: the first state of each
generator, and Python's `random` in a forked child, which reseeds itself there.
"""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

from repro.record import seeds
from repro.worker.imports import when_imported
from repro.worker.job import Job, Lines, rank
from repro.worker.places import Place

#: Seeding that these make is part of how they work, not the user's.
_LIBRARIES = ("torch", "numpy", "random")
#: Once torch._dynamo is loaded, torch.manual_seed is called from a wrapper of its own.
_WRAPPERS = ("torch._compile", "torch._dynamo.eval_frame", "repro.worker.outside")
_MOST_OF_A_LINE = 3
_ENTROPY = "from the operating system"


def install(job: Job, observed: Lines) -> None:
    """Seed ``random``, ``numpy.random`` and ``torch`` as each is imported, and watch the calls that seed again."""
    global _seeder
    _seeder = seeder = _Seeder(job, observed)
    os.register_at_fork(before=seeder.count_fork, after_in_child=seeder.forked)
    when_imported("random", seeder.python)
    when_imported("numpy.random", seeder.numpy)
    when_imported("torch", seeder.torch)
    if "--multiprocessing-fork" in sys.orig_argv:
        when_imported("multiprocessing.process", seeder.spawned)


def forks() -> tuple[int, int]:
    """Return how many children this process has forked, and programs started: they say where the next draws from."""
    return (0, 0) if _seeder is None else (_seeder.forks, _seeder.place.started)


def set_forks(counts: tuple[int, int]) -> None:
    """Number the next children from ``counts`` on, as in the run that this one goes on from."""
    if _seeder is not None:
        _seeder.forks, _seeder.place.started = counts


def restart(replicate: int) -> None:
    """Seed the global generators anew, from the master seed under another replicate index."""
    set_replicate(replicate)
    if _seeder is not None:
        _seeder.seed_all()


def set_replicate(replicate: int) -> None:
    """Have what is seeded from here on (Python's `random` in a forked child) drawn under this replicate index."""
    if _seeder is not None:
        _seeder.replicate = replicate


_seeder: _Seeder | None = None


class _Seeder:
    def __init__(self, job: Job, observed: Lines) -> None:
        self._job = job
        self._observed = observed
        self.place = Place(job.folder, observed)
        self.forks = 0
        self.place.watch(self.count_spawned)
        self.replicate = job.replicates.get("global", 0)
        self._seeders: list[Callable[[], object]] = []
        self._said: Counter[tuple[str, str, int]] = Counter()

    def python(self, module: ModuleType) -> None:
        seed = self._begin(module.seed, "python", 64)
        self._watch([module], "seed", "random.seed")
        os.register_at_fork(after_in_child=seed)  # after the module's own, which takes entropy

    def numpy(self, module: ModuleType) -> None:
        self._begin(module.seed, "numpy", 32)
        self._watch([module], "seed", "numpy.random.seed")
        self._watch([module], "default_rng", "numpy.random.default_rng", only_entropy=True)

    def torch(self, module: ModuleType) -> None:
        self._begin(module.manual_seed, "torch", 63)
        self._watch([module, module.random], "manual_seed", "torch.manual_seed")
        self._watch([module, module.random], "seed", "torch.seed")
        self._watch([module.cuda, module.cuda.random], "manual_seed", "torch.cuda.manual_seed")
        self._watch([module.cuda, module.cuda.random], "manual_seed_all", "torch.cuda.manual_seed_all")

    def spawned(self, module: ModuleType) -> None:
        """Seed a process that `multiprocessing` spawned anew when its work begins, whatever its imports drew."""
        original = module.BaseProcess._bootstrap

        @functools.wraps(original)
        def bootstrap(process: Any, *args: Any, **kwargs: Any) -> Any:
            self.seed_all()
            return original(process, *args, **kwargs)

        module.BaseProcess._bootstrap = bootstrap

    def seed_all(self) -> None:
        for seed in self._seeders:
            seed()

    def count_fork(self) -> None:
        self.forks += 1

    def count_spawned(self) -> int:
        self.forks += 1
        return self.forks

    def forked(self) -> None:
        self.place.forked(self.forks)
        self.forks = 0

    def _begin(self, seed: Callable[[int], object], library: str, bits: int) -> Callable[[], object]:
        """Seed a library now, and return the function that does it again for another place."""

        def again() -> None:
            name, size = f"global.{library}{self.place.own}", 64 if bits > 32 else 32  # noqa: PLR2004
            number = seeds.integer(self._job.seed, name, size, replicate=self.replicate, rank=rank())
            seed(number >> (-bits % 32))

        self._seeders.append(again)
        again()
        return again

    def _watch(self, modules: list[ModuleType], name: str, label: str, *, only_entropy: bool = False) -> None:
        original: Callable[..., Any] = getattr(modules[0], name)

        @functools.wraps(original)
        def seed(*args: Any, **kwargs: Any) -> Any:
            given = next((value for value in (*args, *kwargs.values()) if value is not None), None)
            if given is None or not only_entropy:
                self._note(label, _ENTROPY if given is None else repr(given)[:80], sys._getframe(1))
            return original(*args, **kwargs)

        for module in modules:
            setattr(module, name, seed)

    def _note(self, label: str, value: str, frame: FrameType) -> None:
        place = _users_line(frame)
        if place is None:
            return
        self._said[label, *place] += 1
        if self._said[label, *place] <= _MOST_OF_A_LINE:
            self._observed.event("seed", call=label, value=value, file=place[0], line=place[1])


def _users_line(frame: FrameType) -> tuple[str, int] | None:
    """Return the innermost line outside installed code, of the calls that led to ``frame``; else that of ``frame``.

    None where one of the random libraries made the call itself (a DataLoader's workers), or this package, or where an
    installed module makes it while it is imported: such a generator is the library's own.
    """
    while frame.f_globals.get("__name__") in _WRAPPERS and frame.f_back is not None:
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__"))
    if module.partition(".")[0] in _LIBRARIES or module.startswith("repro.worker"):
        return None
    at: FrameType | None = frame
    while at is not None and at.f_code.co_filename.startswith(_INSTALLED):
        if at.f_code.co_name == "<module>" and at.f_globals.get("__name__") not in ("__main__", "runpy"):
            return None
        at = at.f_back
    found = at or frame
    return found.f_code.co_filename, found.f_lineno


_INSTALLED = (os.path.dirname(os.__file__) + "/", sys.prefix + "/", "<frozen ")
