"""Optional signatures of the journal: they tell what a hash chain alone cannot."""

import subprocess
from pathlib import Path

import pytest
from conftest import Project


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A fresh SSH key without a passphrase."""
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture
def ran(project: Project) -> Project:
    """A project with two runs that need no torch."""
    project.write("pyproject.toml", "")
    project.write("tiny.py", "import repro; repro.current().log(acc=0.5)")
    for _ in range(2):
        project.run("--", "python", "tiny.py")
    return project


def test_a_signed_journal_verifies_and_names_its_key(ran: Project, key: Path) -> None:
    """After `repro sign`, verify says who signed how much, and later runs do not disturb it."""
    ran.repro("sign", "--key", str(key), check=0)
    ran.run("--", "python", "tiny.py")
    found = ran.repro("verify", "--json", check=0).json
    assert "ED25519" in found["signatures"][0]
    assert "first 4 journal lines" in found["signatures"][0]


def test_a_journal_cut_short_is_found_by_its_signature(ran: Project, key: Path) -> None:
    """A signed line that is gone makes verify fail with exit code 5, though the chain itself is whole."""
    ran.repro("sign", "--key", str(key), check=0)
    journal = ran.store / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))
    done = ran.repro("verify", check=5)
    assert "was signed, and is not in the journal any more" in done.out


def test_a_changed_signature_is_found(ran: Project, key: Path) -> None:
    """A signature over another head does not pass."""
    ran.repro("sign", "--key", str(key), check=0)
    path = next((ran.store / "signatures").iterdir())
    text = path.read_text()
    path.write_text(text.replace('"seq":3', '"seq":2'))
    done = ran.repro("verify", check=5)
    assert path.name in done.out


def test_a_key_that_cannot_be_used_is_a_clear_error(ran: Project, tmp_path: Path) -> None:
    """A missing key: exit code 2 and a hint, no traceback, no signature left."""
    done = ran.repro("sign", "--key", str(tmp_path / "none"), check=2)
    assert "hint:" in done.err
    assert "Traceback" not in done.err
