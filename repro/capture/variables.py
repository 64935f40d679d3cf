"""Environment variables and arguments: what belongs to the recipe, what is kept as a keyed hash, what is redacted."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from repro.base import caches
from repro.capture import tokens
from repro.capture.tokens import REDACTED
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
_BEFORE_KEY = frozenset(
    "api access private secret ssh account signing encryption deploy master license consumer wandb openai anthropic hf"
    " huggingface hub cohere mistral groq replicate aws azure gcp google gemini stripe sendgrid twilio slack telegram"
    " discord comet neptune clearml dagshub mlflow kaggle github gitlab deepseek openrouter langchain langsmith"
    " pinecone weaviate qdrant serper tavily ngrok runpod".split()
)
#: A "token" or a "pass" at the end of a name is a secret, but not those of language models, of training and of filters.
_NO_SECRET = frozenset(
    "pad eos bos sep cls mask unk max min num n per next prev special image video audio stop start end first last"
    " prefix suffix new trigger placeholder class register patch blank word text language assistant response separator"
    " eot sentinel forward backward second single one two multi low high band all by".split()
)
_AT_THE_END = frozenset("pwd cookie cookies".split())
#: What no secret is, where a name alone would make it one: numbers, and words for yes, no and nothing.
_PLAIN = re.compile(r"[-+]?[\d._]+(?:[eE][-+]?\d+)?|true|false|none|null|yes|no|on|off", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: Names in the query of a URL that are secrets there only.
_IN_QUERY = frozenset("key sig signature x-amz-signature x-amz-credential".split())
_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"]+")
_QUERY = re.compile(r"(?<=[?&#;])([^=&#;\s]+)=([^&#;\s]+)")
_HEADER = re.compile(r"((?:[^=]*=)?([A-Za-z][\w-]*):\s*)\S.*", re.DOTALL)
_BEARER = re.compile(r"\b(bearer\s+)[\w+/=.~-]{8,}", re.IGNORECASE)
#: A name and its value within a text: JSON, YAML, a DSN, ``NAME=VALUE`` behind an option.
_PAIR = re.compile(r"""(?<![\w.-])(["']?)([A-Za-z_][\w.-]*)\1(\s*[=:]\s*)(?:"([^"]*)"|'([^']*)'|([^\s,;&"'{}\[\]]+))""")
#: Options that are given a user and a password: `curl -u`.
_WITH_USER = frozenset("-u --user --proxy-user --basic --login --http-user".split())
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
    names = (name for name in sorted(allowed) if not is_secret_name(name) and name not in caches.VARIABLES)
    return {name: environment[name] for name in names if redact_text(environment[name]) == environment[name]}


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
    if not words:
        return False
    if any(word in _SURE or word.endswith(_ENDS) for word in words) or words[-1] in _AT_THE_END:
        return True
    if words[-1] == "token":
        return len(words) == 1 or words[-2] not in _NO_SECRET
    if words[-1] == "pass":
        return len(words) > 1 and words[-2] not in _NO_SECRET
    return any(before in _BEFORE_KEY and word == "key" for before, word in pairwise(words))


def _is_secret(name: str, value: str) -> bool:
    """Say whether a name makes a value a secret: a number may be a password, but is no token."""
    return is_secret_name(name) and not (_PLAIN.fullmatch(value) and name.lower().endswith(("token", "pass", "key")))


def redact_url(text: str) -> str:
    """Return a URL without user, password, and secret query values; other text is returned as it is."""
    if "://" not in text:
        return text
    return _QUERY.sub(_redact_query, tokens.without_user(text))


def redact_remote(text: str) -> str:
    """Return the place of a remote repository without user and password: a URL, or ``user@host:path``."""
    return redact_text(tokens.without_scp_user(redact_url(text)))


def redact_text(text: str) -> str:
    """Return a text without what is shaped like a secret, and without the values of secret names in it."""
    text = _URL.sub(lambda found: redact_url(found[0]), text)
    return tokens.TOKEN.sub(REDACTED, _BEARER.sub(rf"\1{REDACTED}", _PAIR.sub(_redact_pair, text)))


def _redact_pair(found: re.Match[str]) -> str:
    value = next(item for item in found.groups()[3:] if item is not None)
    if not _is_secret(found[2], value) or value.startswith(("//", REDACTED)):
        return found[0]
    end = found[0][len(found[0]) - 1 :] if found[6] is None else ""
    return f"{found[1]}{found[2]}{found[1]}{found[3]}{end}{REDACTED}{end}"


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
    if is_option and not text.startswith("-") and _is_secret(before, text):
        return REDACTED
    if equals and value and "://" not in name and _is_secret(name, value):
        return f"{name}={REDACTED}"
    user, colon, password = text.partition(":")
    if before in _WITH_USER and colon and user and password and not _PLAIN.fullmatch(password) and "/" not in user:
        return f"{user}:{REDACTED}"
    for secret in values:
        text = text.replace(secret, REDACTED)
    header = _HEADER.fullmatch(text)
    if header is not None and is_secret_name(header[2]) and "://" not in text[: len(header[1]) + 2]:
        return header[1] + REDACTED
    return redact_text(text)
