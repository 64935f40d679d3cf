"""Caches outside of a run's own results: what can be made again (``made``) and what can be fetched again (``fetched``).

One list for reads and writes, by variable and by the place that a program takes where its variable is not set. A *made*
cache (kernels, byte code, fonts, the state of a notebook server) follows from code and installed software: it is
neither input nor output. A *fetched* one (weights and data sets of hubs, all else in ``~/.cache``) decides results: it
is an input, but one that may be gone, since the program fetches it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

Kind = Literal["made", "fetched"]

#: Variable (or none) and default place of what can be made again; ``*`` stands for the rest of a folder's name.
_MADE = """
    TORCHINDUCTOR_CACHE_DIR        $TMP/torchinductor_*
    TRITON_CACHE_DIR               ~/.triton
    TORCH_EXTENSIONS_DIR           $CACHE/torch_extensions
    PYTORCH_KERNEL_CACHE_PATH      $CACHE/torch/kernels
    CUDA_CACHE_PATH                ~/.nv
    NUMBA_CACHE_DIR                $CACHE/numba
    CUPY_CACHE_DIR                 ~/.cupy
    JAX_COMPILATION_CACHE_DIR      -
    WARP_CACHE_PATH                $CACHE/warp
    TI_OFFLINE_CACHE_FILE_PATH     $CACHE/taichi
    MIOPEN_CUSTOM_CACHE_DIR        $CACHE/miopen
    CCACHE_DIR                     $CACHE/ccache
    PYTHONPYCACHEPREFIX            -
    MPLCONFIGDIR                   $CACHE/matplotlib
    -                              $CONFIG/matplotlib
    IPYTHONDIR                     ~/.ipython
    JUPYTER_CONFIG_DIR             ~/.jupyter
    JUPYTER_DATA_DIR               $DATA/jupyter
    JUPYTER_RUNTIME_DIR            -
    WANDB_CACHE_DIR                $CACHE/wandb
    PIP_CACHE_DIR                  $CACHE/pip
    UV_CACHE_DIR                   $CACHE/uv
    -                              $CACHE/fontconfig
    -                              $CACHE/mesa_shader_cache
    -                              $CACHE/pyopencl
"""
#: The same of what is fetched; ``$CACHE`` itself comes last: programs of which nothing is known.
_FETCHED = """
    HF_HOME                        $CACHE/huggingface
    HF_HUB_CACHE                   -
    HUGGINGFACE_HUB_CACHE          -
    HF_DATASETS_CACHE              -
    TRANSFORMERS_CACHE             -
    SENTENCE_TRANSFORMERS_HOME     -
    TORCH_HOME                     $CACHE/torch
    KERAS_HOME                     ~/.keras
    TFHUB_CACHE_DIR                $TMP/tfhub_modules
    TFDS_DATA_DIR                  ~/tensorflow_datasets
    TIKTOKEN_CACHE_DIR             $TMP/data-gym-cache
    KAGGLEHUB_CACHE                $CACHE/kagglehub
    MODELSCOPE_CACHE               $CACHE/modelscope
    OPENML_CACHE_DIR               ~/.openml
    SCIKIT_LEARN_DATA              ~/scikit_learn_data
    SEABORN_DATA                   $CACHE/seaborn
    NLTK_DATA                      ~/nltk_data
    GENSIM_DATA_DIR                ~/gensim-data
    XDG_CACHE_HOME                 $CACHE
"""
#: Settings that people write into a folder which else holds caches: these stay inputs.
_SETTINGS = ("/matplotlibrc", ".mplstyle", "/ipython_config.py", "/ipython_kernel_config.py")
_STARTUP = "/startup/"
#: Made by a program beside what it is of, wherever that is.
_BESIDE = (".pyc", ".nbi", ".nbc")
_BESIDE_IN = ("/__pycache__/", "/.ipynb_checkpoints/", "/fontlist-v")


def _rows(table: str) -> list[tuple[str, str]]:
    return [(name, place) for name, place in map(str.split, table.strip().splitlines())]


_KINDS: tuple[tuple[Kind, list[tuple[str, str]]], ...] = (("made", _rows(_MADE)), ("fetched", _rows(_FETCHED)))
#: The variables that name a cache which can be made again, and all that a place depends on.
MADE_BY = frozenset(name for name, _ in _rows(_MADE) if name != "-")
VARIABLES = MADE_BY | {name for name, _ in _rows(_FETCHED)}
PLACED_BY = VARIABLES | {"HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR", "TEMP", "TMP"}


class Place(NamedTuple):
    """A cache: paths that begin with ``prefix`` are in it.

    ``shared`` is the one of all programs that have none of their own: scripts keep results there, too.
    """

    prefix: str
    kind: Kind
    shared: bool = False

    def folder(self, path: str) -> str:
        """Return the cache's own folder, of a path in it."""
        end = path.find(os.sep, len(self.prefix) - 1)
        return path if end < 0 else path[:end]


class Caches(NamedTuple):
    """All caches that an environment names, the made ones first."""

    places: tuple[Place, ...]
    prefixes: tuple[str, ...]

    def of(self, path: str) -> Place | None:
        """Return the cache that an absolute path lies in."""
        if not path.startswith(self.prefixes):
            return None
        place = next(item for item in self.places if path.startswith(item.prefix))
        return None if place.kind == "made" and _is_setting(path) else place


def lies_beside(path: str) -> bool:
    """Say whether a file is a cache by its name, or that of its folder: byte code, compiled loops, a list of fonts."""
    return path.endswith(_BESIDE) or any(part in path for part in _BESIDE_IN)


def _is_setting(path: str) -> bool:
    return path.endswith(_SETTINGS) or (_STARTUP in path and path.endswith((".py", ".ipy")))


def named(environment: Mapping[str, str], around: Iterable[str] = ()) -> Caches:
    """Return the caches of an environment.

    A variable that names the root, the home, the temporary folder, one of ``around`` (the project), or what any of
    these lies in does not count: a cache shares such a folder with all the rest.
    """
    roots = _roots(environment)
    shared = [os.sep, roots["~"], roots["$TMP"], *around]
    broad = {folder for path in shared for folder in _upwards(os.path.normpath(path))}
    common = {f"{path.rstrip(os.sep)}{os.sep}" for path in (roots["$CACHE"], os.path.realpath(roots["$CACHE"]))}
    found = (
        Place(path, kind, path in common)
        for kind, path in _places(environment, roots)
        if path.rstrip(os.sep) not in broad
    )
    places = tuple(dict.fromkeys(found))
    return Caches(places, tuple(item.prefix for item in places))


def _roots(environment: Mapping[str, str]) -> dict[str, str]:
    home = environment.get("HOME") or os.path.expanduser("~")
    temporary = next((environment[name] for name in ("TMPDIR", "TEMP", "TMP") if environment.get(name)), "/tmp")  # noqa: S108
    return {
        "~": home,
        "$TMP": temporary,
        "$CACHE": environment.get("XDG_CACHE_HOME") or f"{home}/.cache",
        "$CONFIG": environment.get("XDG_CONFIG_HOME") or f"{home}/.config",
        "$DATA": environment.get("XDG_DATA_HOME") or f"{home}/.local/share",
    }


def _places(environment: Mapping[str, str], roots: Mapping[str, str]) -> Iterator[tuple[Kind, str]]:
    """Yield the beginnings of paths in caches, as they are said and as links lead."""
    for kind, rows in _KINDS:
        for name, place in rows:
            root, slash, rest = place.partition("/")
            told = [environment.get(name, ""), "" if place == "-" else roots[root] + slash + rest]
            for path in filter(None, told):
                full = os.path.abspath(f"{roots['~']}{path[1:]}" if path.startswith("~/") else path)
                end = "" if full.endswith("*") else os.sep
                yield kind, full.removesuffix("*") + end
                yield kind, os.path.realpath(full.removesuffix("*")) + end


def _upwards(path: str) -> Iterator[str]:
    while path != os.path.dirname(path):
        yield path
        path = os.path.dirname(path)
    yield path.rstrip(os.sep)


def moved(environment: Mapping[str, str], live: Iterable[Iterable[str]]) -> dict[str, str]:
    """Return the variables of made caches that lie in a live place, as they are in its copy (pairs of both).

    A replay makes them again in its own folder, rather than write into the user's.
    """
    pairs = [(place + os.sep, copy + os.sep) for place, copy in live]
    named = {name: environment[name] + os.sep for name in MADE_BY if environment.get(name)}
    return {
        name: (copy + path.removeprefix(place)).rstrip(os.sep)
        for name, path in named.items()
        for place, copy in pairs
        if path.startswith(place) and not path.startswith(tuple(copy for _, copy in pairs))
    }
