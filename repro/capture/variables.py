"""Environment variables and arguments: what belongs to the recipe, what is kept as a keyed hash, what is redacted."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from repro.base import caches
from repro.record import devices

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
#: Never kept in clear, whatever else is in the name: words that say so, ends of words, and words before "key".
_SURE = frozenset("secret secrets credential credentials auth authorization bearer apikey accesskey privatekey".split())
_ENDS = ("password", "passwords", "passwd", "passphrase", "apitoken", "accesstoken", "authtoken")
_BEFORE_KEY = frozenset("api access private secret ssh account signing encryption".split())
#: A "token" at the end of a name is a secret, but not those of language models.
_NO_SECRET = frozenset(
    "pad eos bos sep cls mask unk max min num n per next prev special image video audio stop start end first last"
    " prefix suffix new trigger placeholder class register patch blank word text".split()
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: Names in the query of a URL that are secrets there only.
_IN_QUERY = frozenset("key sig signature x-amz-signature x-amz-credential".split())
_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"]+")
_USER = re.compile(r"(?<=://)[^\s/]*@")
_QUERY = re.compile(r"(?<=[?&#;])([^=&#;\s]+)=([^&#;\s]+)")
_HEADER = re.compile(r"((?:[^=]*=)?([A-Za-z][\w-]*):\s+)\S.*", re.DOTALL)
_BEARER = re.compile(r"\b(bearer\s+)\S+", re.IGNORECASE)
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16}|AIza[\w-]{35}|nvapi-[\w-]{20,}|r8_\w{30,}|pypi-[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
REDACTED = "[redacted]"
#: Set in a replay and in the trials of a study unless the user has set them.
HUB_OFFLINE = "HF_HUB_OFFLINE"
OFFLINE = {"WANDB_MODE": "offline", HUB_OFFLINE: "1"}
#: Variables of one shell, terminal or launch, which differ each time and say nothing.
_NOISE = frozenset(
    "_ SHLVL OLDPWD PWD PPID RANDOM SECONDS LINES COLUMNS WINDOWID PS1 PS2 PROMPT COLORTERM DISPLAY "
    "MAKEFLAGS MAKELEVEL MFLAGS MAKE_TERMOUT MAKE_TERMERR".split()
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
    """Return the allow-listed variables, less what may be secret, and which GPUs can be seen, unless that is none."""
    listed = (name for name in environment if name in _ALLOWED or name.startswith(_PREFIXES))
    allowed = (name for name in listed if name != devices.VARIABLE or devices.hides_all(environment[name]))
    return {
        name: environment[name] for name in sorted(allowed) if not is_secret_name(name) and name not in caches.VARIABLES
    }


def others(environment: Mapping[str, str], key: bytes) -> dict[str, str]:
    """Return a keyed hash of each variable off the list: enough to say that one changed, not what it was.

    Which GPUs can be seen is in the record as it is.
    """
    listed = recipe(environment)
    names = (
        name
        for name in sorted(environment)
        if name not in listed
        and name not in _NOISE
        and name not in OFFLINE
        and name != devices.VARIABLE
        and not name.startswith(_NOISE_PREFIXES)
    )
    return {name: keyed(environment[name], key) for name in names}


def keyed(value: str, key: bytes) -> str:
    """Return a keyed hash of a text (HMAC-SHA-256, 64 bits of it)."""
    return hmac.new(key, value.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:16]


def is_secret_name(name: str) -> bool:
    """Say whether a variable or an option of this name holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    if any(word in _SURE or word.endswith(_ENDS) for word in words):
        return True
    if words and words[-1] == "token":
        return len(words) == 1 or words[-2] not in _NO_SECRET
    return any(before in _BEFORE_KEY and word == "key" for before, word in pairwise(words))


def redact_url(text: str) -> str:
    """Return a URL without user, password, and secret query values; other text is returned as it is."""
    if "://" not in text:
        return text
    return _QUERY.sub(_redact_query, _USER.sub(f"{REDACTED}@", text))


def _redact_query(found: re.Match[str]) -> str:
    secret = is_secret_name(found[1]) or found[1].lower() in _IN_QUERY
    return f"{found[1]}={REDACTED}" if secret else found[0]


def redact_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """Return the arguments without secrets, and the places of those that were redacted.

    A secret is what a secret option is given (``--api-key X``, ``--token=X``), what looks like a token, the password
    of a URL, and any text that is the value of a secret variable.
    """
    secret = {value for name, value in environment.items() if is_secret_name(name) and len(value) >= 8}  # noqa: PLR2004
    values = sorted(secret, key=lambda value: (-len(value), value))
    found = [_redact(text, arguments[index - 1] if index else "", values) for index, text in enumerate(arguments)]
    return found, [index for index, (old, new) in enumerate(zip(arguments, found, strict=True)) if old != new]


def _redact(text: str, before: str, values: list[str]) -> str:
    name, equals, value = text.partition("=")
    is_option = before.startswith("-") and not before.startswith("--no-") and "=" not in before
    if is_option and is_secret_name(before) and not text.startswith("-"):
        return REDACTED
    if equals and value and is_secret_name(name) and "://" not in name:
        return f"{name}={REDACTED}"
    for secret in values:
        text = text.replace(secret, REDACTED)
    header = _HEADER.fullmatch(text)
    if header is not None and is_secret_name(header[2]):
        return header[1] + REDACTED
    text = _URL.sub(lambda found: redact_url(found[0]), text)
    return _TOKEN.sub(REDACTED, _BEARER.sub(rf"\1{REDACTED}", text))
