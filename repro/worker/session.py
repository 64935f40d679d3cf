"""`Run`: what the user's code sees of the run it is part of."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

from repro.worker import subsets
from repro.worker.job import Job, Lines, place
from repro.worker.progress import Progress
from repro.worker.sources import Sources


class Params(Mapping[str, Any]):
    """The run's parameters, read as ``params.lr`` or ``params["lr"]``; they cannot be changed."""

    def __init__(self, values: Mapping[str, Any], horizon_read: Callable[[], None] = lambda: None) -> None:
        self.__dict__["_values"] = dict(values)
        self.__dict__["_horizon_read"] = horizon_read

    def __getitem__(self, name: str) -> Any:
        if name == "epochs":
            self._horizon_read()
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__["_values"]
        if name not in values:
            known = ", ".join(values) or "none"
            msg = f"no parameter {name!r}; the experiment has: {known}"
            raise AttributeError(msg)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        msg = f"parameters cannot be changed while a run goes on ({name} = {value!r})"
        raise AttributeError(msg)

    def __repr__(self) -> str:
        return f"Params({self._values!r})"


class Saved(dict[str, Any]):
    """The plain values of the checkpoint that a run goes on from; true where there is one, even if it held none."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(values or {})
        self._goes_on = values is not None

    def __bool__(self) -> bool:
        return self._goes_on


class Run:
    """One run, as its own code sees it.

    Without a job (under plain ``python``) it is a harmless stand-in: streams are seeded with 0, and nothing is kept.
    """

    def __init__(self, job: Job | None = None, observed: Lines | None = None) -> None:
        self._job = job
        self._metrics = None if job is None else Lines(job.folder, "metrics")
        self._observed = observed
        self._sources = Sources(self.seed, {} if job is None else job.replicates, observed)
        self._keys: dict[str, str] = {}
        self._saved = 0
        self._artifacts: dict[str, str] = {}
        self.params = Params({} if job is None else job.params, self._horizon_read)
        self._progress: Progress | None = None
        if job is not None and observed is not None and self._metrics is not None:
            self._progress = Progress(self._sources, job, observed, self._metrics)

    @property
    def id(self) -> str | None:
        """The run's id, or None outside a run."""
        return None if self._job is None else self._job.run_id

    @property
    def seed(self) -> int:
        """The master seed."""
        return 0 if self._job is None else self._job.seed

    @property
    def horizon(self) -> int | None:
        """The length that schedules are laid out for, in epochs; None where the experiment declares none."""
        self._horizon_read()
        return None if self._job is None else self._job.horizon.get("epochs")

    def _horizon_read(self) -> None:
        """Take note that the run depends on its horizon, also where it reads the parameter ``epochs``."""
        if self._observed is not None:
            self._observed.event("horizon-read")

    def log(self, values: Mapping[str, float] | None = None, /, *, step: int | None = None, **named: float) -> None:
        """Append one point of one or more metrics: ``run.log(step=3, loss=0.5)``.

        Values are numbers, or tensors and arrays of one element. Every point can be read by others at once, and after
        ``kill -9``. Names that are no identifiers go into a mapping: ``run.log({"val/acc": 0.9}, step=3)``.

        Raises:
            TypeError, ValueError: for a value that is no number, a step that is no whole one, a name that is no text.
        """
        if self._metrics is None:
            return
        points = named if values is None else {**values, **named}
        parts = []
        for name, value in points.items():
            number = value if type(value) is float else _number(name, value)
            text = repr(number) if math.isfinite(number) else f'"{number!r}"'
            parts.append(f"{self._keys.get(name) or self._key(name)}:{text}")
        at = "null" if step is None else operator.index(step)
        self._metrics.write(f'{{"t":{time.time():.6f},"step":{at},"m":{{{",".join(parts)}}}}}\n')

    def _key(self, name: Any) -> str:
        if not isinstance(name, str):
            msg = f"the name of a metric is a text, not {name!r}"
            raise TypeError(msg)
        self._keys[name] = json.dumps(name)
        return self._keys[name]

    def epochs(self, count: int | None = None) -> Iterator[int]:
        """Yield 0, 1, ... for every epoch of the run's budget: parameter ``epochs``, or ``count`` where there is none.

        In a run that goes on, those that are still to be done.

        Raises:
            ValueError: when neither is given.
        """
        total = self._job.budget.get("epochs", count) if self._job is not None else count
        if total is None:
            msg = "run.epochs() needs a parameter 'epochs' in the experiment, or a count: run.epochs(10)"
            raise ValueError(msg)
        if self._observed is not None:
            self._observed.event("epochs-asked")
        yield from range(total) if self._progress is None else self._progress.epochs(total)

    def subset(self, dataset: Any, labels: Any = None) -> Any:
        """Return the part of a dataset that the run's budget has: all of it, or a `torch.utils.data.Subset`.

        Stratified: of each label the same share, one example at least. Nested: 10% lies within 20%. ``labels`` are the
        dataset's own ``targets``, ``labels`` or ``y``, or the last of each example, unless given; without any the
        share is of all examples alike. Which examples follows from the master seed; no other stream is moved.
        """
        if self._observed is not None:
            self._observed.event("subset", size=len(dataset))
        share = subsets.MILLION if self._job is None else self._job.budget.get("data", subsets.MILLION)
        if share == subsets.MILLION:
            return dataset
        from torch.utils.data import Subset

        known = subsets.labels_of(dataset) if labels is None else getattr(labels, "tolist", lambda: labels)()
        generator = self.rng("subset", 0).numpy
        return Subset(dataset, subsets.indices(known or [0] * len(dataset), share, generator.permutation))

    def rng(self, name: str, *at: int) -> Any:
        """Return the random stream of this name: the same object on each call.

        It is a `torch.Generator` with all methods of a `numpy.random.Generator` (``.numpy`` is one). With indices,
        ``run.rng("augment", epoch, index)``, a new counter-based stream that depends on nothing but its key.
        """
        return self._sources.rng(name, *at)

    def stream(self, name: str) -> AbstractContextManager[None]:
        """Return a block in which the global generators of Python, numpy and torch draw from the named stream."""
        return self._sources.block(name)

    def data(self, name: str, *arrays: Any) -> None:
        """Digest data that is in memory (numpy arrays, tensors, anything with ``__array__``) under a name."""
        if self._observed is None:
            return
        import numpy as np

        state = hashlib.sha256()
        shapes = []
        for item in arrays:
            array = _array(item)
            shapes.append(list(array.shape))
            state.update(f"{array.dtype.str}{array.shape}\n".encode())
            state.update(
                repr(array.tolist()).encode() if array.dtype.hasobject else array.reshape(-1).view(np.uint8).data
            )
        self._observed.event("data", name=name, digest=f"sha256:{state.hexdigest()}", shapes=shapes)

    def checkpoint(self, **parts: Any) -> str | None:
        """Save parts of the run's state, and all generators, and return the file's path (None outside a run).

        Each part is an object with ``state_dict()`` (model, optimizer, scheduler, scaler), a generator of torch, numpy
        or Python, a plain value, or a mapping or list of these. Within ``run.epochs()`` it is the last thing in an
        epoch, and `resume` goes on with the next. The file is read by ``torch.load(path, weights_only=True)``. It is
        whole or absent at any crash.

        Raises:
            TypeError: for a value that such a file cannot hold.
            ValueError: for a part with the name that repro's own has.
        """
        if self._job is None or self._progress is None:
            return None
        import torch

        from repro.worker import checkpoint

        if checkpoint.OWN in parts:
            msg = f"a part of a checkpoint cannot be called {checkpoint.OWN!r}: that is what repro keeps in it"
            raise ValueError(msg)
        encoder = checkpoint.Encoder()
        state = {name: encoder.encode(part, (name,)) for name, part in parts.items()}
        objects = dict(encoder.objects)
        own = encoder.encode(self._progress.state(encoder) | {"saved": self._saved}, (checkpoint.OWN,))
        state[checkpoint.OWN] = own | {
            "schema": checkpoint.SCHEMA,
            "arrays": encoder.arrays,
            "objects": [[*at] for at in objects],
        }
        temporary = os.path.join(self._job.folder, f"checkpoint-{os.getpid()}.tmp")
        torch.save(state, temporary)
        path = self._publish(temporary, os.path.join(self._job.folder, "checkpoints", place()))
        os.unlink(temporary)
        self._progress.saved(os.path.basename(path), objects, own)
        return path

    def resume(self, **parts: Any) -> Saved:
        """Go on where the run was that this one continues (``repro run --resume``); call it before ``run.epochs()``.

        Each part that was given to `checkpoint` as an object is given again under its name and gets its state back, in
        place; so do all generators. Returns the plain values of the checkpoint: a mapping that is true where the run
        goes on, and empty and false where it begins.

        Raises:
            KeyError: for a part that the checkpoint does not have.
            ValueError: when an object that it has is not given.
            TypeError: for a part that cannot be changed in place.
        """
        if self._progress is None:
            return Saved()
        from repro.worker import checkpoint

        path = self._progress.goes_on(checkpoint.loadable(parts))
        if path is None:
            return Saved()
        found = checkpoint.read(path, parts)
        self._saved = found.own["saved"] + 1
        self._progress.resume(found)
        return Saved(found.values)

    def _publish(self, temporary: str, stem: str) -> str:
        """Give a file the next free name: other processes of the run number theirs in the same folder."""
        while True:
            path = f"{stem}-{self._saved:06d}.pt"
            self._saved += 1
            try:
                os.link(temporary, path)
            except FileExistsError:
                continue
            return path

    def artifact(self, path: str | os.PathLike[str]) -> None:
        """Keep a file as one of the run's declared results: a replay compares it, bit for bit.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is a folder, a pipe or a device, or another file of this name is an artifact already.
        """
        if self._job is None:
            return
        full = os.path.realpath(path)
        name = os.path.basename(full)
        if not stat.S_ISREG(os.stat(full).st_mode):
            msg = f"{path} is a folder, a pipe or a device: an artifact is a file"
            raise ValueError(msg)
        if self._artifacts.setdefault(name, full) != full:
            msg = f"{path}: {self._artifacts[name]} is an artifact of the same name already"
            raise ValueError(msg)
        temporary = os.path.join(self._job.folder, f"artifact-{os.getpid()}.tmp")
        shutil.copyfile(full, temporary)
        os.replace(temporary, os.path.join(self._job.folder, "artifacts", name))

    def average(
        self,
        model: Any,
        *,
        ema: float | None = 0.999,
        swa: bool = True,
        swa_start: int | None = None,
        last: int = 0,
    ) -> None:
        """Average a network's weights over the steps of its optimizer from here on; call it before `resume`.

        The averages are in every checkpoint, and saved when the process ends: `repro average --method ema` (or swa,
        last) evaluates them. The training itself is not touched.

        Args:
            model: the network, a `torch.nn.Module`.
            ema: the decay of the exponential mean, reached after a warm-up: (1 + n) / (10 + n) at step n; None: none.
            swa: whether to take the plain mean.
            swa_start: the epoch of `run.epochs` from which it counts; None: three quarters of them.
            last: so many steps at the end have their mean taken; that many copies are kept in memory.

        Raises:
            TypeError, ValueError: for what is no network, or a number out of its range.
            RuntimeError: when it was called before.
        """
        if self._job is None or self._progress is None:
            return
        from repro.worker import averaging_weights

        if self._progress.averages:
            raise RuntimeError("run.average was called before: a run averages one network")
        found = averaging_weights.Averages(
            model, ema=ema, swa=swa, swa_start=swa_start, last=last, where=self._progress.where
        )
        self._progress.averages.append(found)
        averaging_weights.save_at_exit(found, self._job.folder)

    def predictions(self, split: str, ids: Any, probabilities: Any, targets: Any) -> None:
        """Save what the run predicts for each example of a split: for ensembles, churn, the spread by class.

        Once for each split, of all its examples (a second call replaces the first). They are sorted by id, and a
        replay compares them, bit for bit.

        Args:
            split: a name like ``test``.
            ids: whole numbers or texts, shape (n,), each once: the same for an example in every run.
            probabilities: shape (n, classes), each row sums to 1; of a regression the predicted values, shape (n,).
            targets: true classes 0 to k - 1, or true values, shape (n,).

        Raises:
            TypeError, ValueError: for values that are not so, with the first id that is not.
        """
        if self._job is None:
            return
        from repro.worker import predictions

        predictions.save(self._job.folder, split, predictions.checked(split, ids, probabilities, targets))


def _array(item: Any) -> Any:
    """Return data as a contiguous numpy array; a tensor of a kind that numpy lacks (bfloat16) as its bytes."""
    import numpy as np

    if not hasattr(item, "detach"):
        return np.ascontiguousarray(item)
    tensor = item.detach().cpu().resolve_conj().resolve_neg().contiguous()
    try:
        return np.ascontiguousarray(tensor.numpy())
    except TypeError:
        return tensor.view(sys.modules["torch"].uint8).numpy()


def _number(name: str, value: Any) -> float:
    """Return what is logged as a number. Raises TypeError or ValueError with the metric's name."""
    try:
        number = value.item() if hasattr(value, "item") else value
        number = None if isinstance(number, str) else number  # a text is no number, whatever it says
        return float(cast("float", number))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        msg = f"run.log: {name} is no number but {type(value).__name__}: {error}"
        raise kind(msg) from error


_current: Run | None = None


def current() -> Run:
    """Return the run that this process is part of, or a harmless stand-in under plain ``python``."""
    global _current
    if _current is None:
        from repro.worker import hook

        _current = Run(*hook.here())
    return _current
