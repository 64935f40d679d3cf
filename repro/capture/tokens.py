"""What secrets look like: the shapes of issuers' tokens, pairs of a secret name and a value, and passwords in URLs.

The shapes are those that the issuers publish. A library was tried (detect-secrets 1.5): its detectors by entropy take
digests and file names for secrets, and an argument that is redacted cannot be replayed (docs/adr/0043-secrets.md).
"""

from __future__ import annotations

import re

REDACTED = "[redacted]"
#: Whatever is around them. Each alternative has a beginning of its own, so that few places are looked at twice.
_SHAPES = (
    r"hf_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{16,}",  # Hugging Face
    r"api_org_[A-Za-z0-9]{16,}",
    r"sk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic
    r"gsk_[A-Za-z0-9]{20,}",  # Groq
    r"gh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
    r"github_pat_\w{20,}",
    r"gl(?:pat|dt|rt|ptt|cbt)-[\w-]{16,}",  # GitLab
    r"xox[abeprs]-[\w-]{10,}",  # Slack
    r"xapp-\d-[\w-]{10,}",
    r"(?<=hooks\.slack\.com/services/)[\w/]{16,}",
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",  # AWS
    r"AIza[\w-]{35}",  # Google
    r"ya29\.[\w-]{20,}",
    r"GOCSPX-[\w-]{20,}",
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"whsec_[A-Za-z0-9]{16,}",
    r"SG\.[\w-]{16,}\.[\w-]{16,}",  # SendGrid
    r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[\w-]{30,}",
    r"wandb_v\d_[\w-]{16,}",  # Weights & Biases; its older ones are 40 hexadecimal digits as a commit is
    r"nvapi-[\w-]{20,}",
    r"r8_\w{30,}",  # Replicate
    r"dapi[0-9a-f]{32}",  # Databricks
    r"do[por]_v1_[0-9a-f]{64}",  # DigitalOcean
    r"\d{8,10}:AA[\w-]{33}",  # Telegram
    r"AGE-SECRET-KEY-1[A-Z0-9]{40,}",
    r"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*",  # JSON Web Token
)
TOKEN = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_SHAPES)})")
_TOKEN_BYTES = re.compile(TOKEN.pattern.encode(), re.ASCII)
_KEY_BYTES = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|PuTTY-User-Key-File-")
_USER = re.compile(r"(?<=://)[^\s/]*@")
#: A password with a slash in it; a port before the path is none.
_SLASHED = re.compile(r"(?<=://)[^\s/:@\[]*:(?!\d+(?:/|$))[^\s@]*@")
#: The user of a remote as scp takes it; everybody's is ``git``.
_SCP = re.compile(r"^(?!git@)[^\s/:@]+(?::[^\s/@]*)?@(?=[^\s/:@]+:)")


def without_user(text: str) -> str:
    """Return a text with the users and passwords of its URLs redacted."""
    return _SLASHED.sub(f"{REDACTED}@", _USER.sub(f"{REDACTED}@", text))


def without_scp_user(text: str) -> str:
    """Return a remote with the user of ``user@host:path`` redacted; other text as it is."""
    return text if "://" in text else _SCP.sub(f"{REDACTED}@", text, count=1)


def found_in(data: bytes) -> bool:
    """Say whether a file's bytes hold what is shaped like a token or is a private key."""
    return _KEY_BYTES.search(data) is not None or _TOKEN_BYTES.search(data) is not None
