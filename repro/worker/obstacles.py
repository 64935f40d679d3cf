"""What keeps a run from being gone on from one of its checkpoints, as far as it can be seen when that is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def find(
    given: set[str] | None,
    objects: Mapping[Any, Any],
    own: Mapping[str, Any],
    streams: Iterable[Any],
    loaders: Iterable[Any],
    iterators: Iterable[Any],
) -> str | None:
    """Return the first obstacle in words, or None.

    ``given`` are the names that `run.resume` got (None: it was not called), ``objects`` what the checkpoint has by
    place, ``own`` what repro keeps in it, ``streams`` those of ``run.rng``, ``loaders`` the DataLoaders that
    there are, ``iterators`` what goes through them.
    """
    if given is None:
        return "the script does not call run.resume() before it"
    uneven = given.symmetric_difference(at[0] for at in objects)
    if uneven:
        return f"only one of run.resume() and run.checkpoint() has {', '.join(sorted(uneven))}"
    optimizers = [] if own["trail"] is None else own["trail"]["optimizers"]
    missing = [item["line"]["kind"] for item in optimizers if item["part"] is None]
    if missing:
        return f"{', '.join(missing)} has taken steps and is no part of it"
    if any(map(_is_amid, iterators)):
        return "a DataLoader is in the middle of its data"
    known = [*map(id, objects.values()), *map(id, streams)]
    return next(filter(None, (_of_loader(loader, known) for loader in loaders)), None)


def _is_amid(iterator: Any) -> bool:
    try:
        return bool(iterator._num_yielded < len(iterator))
    except (AttributeError, TypeError):  # of data without a length, which it cannot be told of
        return False


def _of_loader(loader: Any, known: list[int]) -> str | None:
    """Return what of a DataLoader's position no checkpoint has."""
    if loader.num_workers and loader.persistent_workers:
        return "a DataLoader has persistent_workers, whose generators cannot be saved"
    generators = (loader.generator, getattr(loader.sampler, "generator", None))
    lost = any(generator is not None and id(generator) not in known for generator in generators)
    return "the generator of a DataLoader is no part of it (a stream of run.rng always is)" if lost else None
