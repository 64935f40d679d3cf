"""Environment variables and arguments: what belongs to the recipe, what is kept as a keyed hash, what is redacted."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit, urlunsplit

#: Variables that may change the bits of a computation, by exact name or by prefix.
_ALLOWED = frozenset(
    "PYTHONHASHSEED PYTHONOPTIMIZE PYTHONUTF8 PYTHONSAFEPATH LANG LC_ALL LC_NUMERIC LC_COLLATE LC_CTYPE TZ"
    " CUBLAS_WORKSPACE_CONFIG CUDA_VISIBLE_DEVICES CUDA_LAUNCH_BLOCKING CUDA_DEVICE_ORDER CUDA_MODULE_LOADING"
    " ATEN_CPU_CAPABILITY TOKENIZERS_PARALLELISM NVIDIA_TF32_OVERRIDE"
    " HIP_VISIBLE_DEVICES LD_PRELOAD WORLD_SIZE GOTO_NUM_THREADS VECLIB_MAXIMUM_THREADS NUMEXPR_NUM_THREADS".split()
)
_PREFIXES = (
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "BLIS_",
    "ONEDNN_",
    "DNNL_",
    "TORCH_",
    "PYTORCH_",
    "NCCL_",
    "CUDNN_",
)
#: Never kept in clear, whatever they begin with.
_SECRET_NAME = re.compile(
    r"(token|secret|passw|passphrase|credential|api_?key|access_?key|private_?key|auth)", re.IGNORECASE
)
_PLACES = ("TORCH_HOME", "PYTORCH_KERNEL_CACHE_PATH", "TORCH_EXTENSIONS_DIR")
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
REDACTED = "[redacted]"
#: Set in a replay and in the trials of a study unless the user has set them.
OFFLINE = {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
#: Variables of one shell, terminal or launch, which differ each time and say nothing.
_NOISE = frozenset(
    "_ SHLVL OLDPWD PWD PPID RANDOM SECONDS LINES COLUMNS WINDOWID PS1 PS2 PROMPT COLORTERM DISPLAY".split()
)
_NOISE_PREFIXES = (
    "REPRO_",
    "SSH_",
    "TERM",
    "TMUX",
    "STY",
    "XDG_SESSION",
    "DBUS_",
    "VSCODE_",
    "PYTEST_",
    "PYENV_",
    "BASH_",
)


def recipe(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the allow-listed variables, less what may be secret."""
    allowed = (name for name in environment if name in _ALLOWED or name.startswith(_PREFIXES))
    return {name: environment[name] for name in sorted(allowed) if not is_secret_name(name) and name not in _PLACES}


def others(environment: Mapping[str, str], key: bytes) -> dict[str, str]:
    """Return a keyed hash of each variable off the list: enough to say that one changed, not what it was."""
    listed = recipe(environment)
    names = (
        name
        for name in sorted(environment)
        if name not in listed and name not in _NOISE and name not in OFFLINE and not name.startswith(_NOISE_PREFIXES)
    )
    return {name: keyed(environment[name], key) for name in names}


def keyed(value: str, key: bytes) -> str:
    """Return a keyed hash of a text (HMAC-SHA-256, 64 bits of it)."""
    return hmac.new(key, value.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:16]


def is_secret_name(name: str) -> bool:
    """Say whether a variable or an option of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def redact_url(text: str) -> str:
    """Return a URL without user, password, and secret query values; other text is returned as it is."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    place = parts.netloc
    if "@" in place:
        place = f"{REDACTED}@{place.rpartition('@')[2]}"
    query = "&".join(
        f"{pair.partition('=')[0]}={REDACTED}" if is_secret_name(pair.partition("=")[0]) else pair
        for pair in parts.query.split("&")
    )
    return urlunsplit(parts._replace(netloc=place, query=query))


def redact_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """Return the arguments without secrets, and the places of those that were redacted.

    A secret is what a secret option is given (``--api-key X``, ``--token=X``), what looks like a token, the password
    of a URL, and any text that is the value of a secret variable.
    """
    values = {value for name, value in environment.items() if is_secret_name(name) and len(value) >= 8}  # noqa: PLR2004
    found = [_redact(text, arguments[index - 1] if index else "", values) for index, text in enumerate(arguments)]
    return found, [index for index, (old, new) in enumerate(zip(arguments, found, strict=True)) if old != new]


def _redact(text: str, before: str, values: set[str]) -> str:
    name, equals, value = text.partition("=")
    if before.startswith("-") and "=" not in before and is_secret_name(before) and not text.startswith("-"):
        return REDACTED
    if equals and value and is_secret_name(name):
        return f"{name}={REDACTED}"
    for secret in values:
        text = text.replace(secret, REDACTED)
    if "://" in text:
        head, sep, tail = (
            text.rpartition("=") if text.startswith("-") and "=" in text.split("://")[0] else ("", "", text)
        )
        text = head + sep + redact_url(tail)
    return _TOKEN.sub(REDACTED, text)
