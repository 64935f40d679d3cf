"""Secrets stay out: no token is anywhere in the store, and what was redacted is said."""

import pytest
import trees
from conftest import Project

from repro.capture import variables

#: What must never be found. Each begins differently, so that a failure says which way it took.
DOTENV = "dotenv-0123456789abcdef"
VARIABLE = "variable-0123456789abcdef"
REMOTE = "remote-0123456789abcdef"
OPTION = "option-0123456789abcdef"
HUB = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nkey-0123456789abcdef\n"

SCRIPT = """\
import os
import sys

import repro

token = open(".env").read() if os.path.exists(".env") else ""
repro.current().log(x=len(token), y=len(os.environ.get("MY_API_KEY", "")), z=len(sys.argv))
"""


@pytest.fixture
def secretive(project: Project) -> Project:
    """A committed project beside whose code lie secrets of every kind."""
    project.write("train.py", SCRIPT)
    project.commit()
    project.git("remote", "add", "origin", f"https://ada:{REMOTE}@example.org/x.git")
    project.git("remote", "add", "query", f"https://example.org/x.git?access_token={REMOTE}")
    project.write(".env", f"TOKEN={DOTENV}\n")
    project.write("deploy_key", KEY)
    return project


@pytest.mark.parametrize("ignored", [True, False])
def test_no_secret_is_anywhere_in_the_store(secretive: Project, ignored: bool) -> None:
    """Tokens in ``.env``, variables, arguments and remotes, and keys: no byte of them in the store, after a replay."""
    if ignored:
        secretive.write(".git/info/exclude", ".env\ndeploy_key\n")
    words = ("--token", OPTION, f"--api-key={OPTION}", HUB, f"--url=https://ada:{OPTION}@example.org/x?token={OPTION}")
    env = {"MY_API_KEY": VARIABLE, "OMP_TOKEN": VARIABLE, "DATA_DIR": VARIABLE}
    done = secretive.run("--", "python", "train.py", *words, "--data", f"x:{VARIABLE}", **env)
    assert done["metrics"] == {"x": len(DOTENV) + 7, "y": len(VARIABLE), "z": 8}
    secretive.run("--", "python", "train.py", **env)
    trees.identical(secretive, **env)
    kept = trees.everything(secretive.store)
    for secret in (DOTENV, VARIABLE, REMOTE, OPTION, HUB, "key-0123456789abcdef"):
        assert secret.encode() not in kept
    assert b"train.py" in kept


#: Files that a script might read, in its project and in the user's home, which no store should have the bytes of.
HOME = (".netrc", ".aws/credentials", ".cache/huggingface/token", ".config/gh/hosts.yml", ".kaggle/kaggle.json")
PROJECT = ("hub_token.txt", "secrets.toml", ".aws/credentials", ".env.d/all", "deploy", "mine.txt")


def test_no_input_that_may_hold_secrets_is_kept(project: Project) -> None:
    """By its name, its folder, its first line or its mode: it counts as read, its bytes are not in the store."""
    home = project.root.parent / "home"
    for name in HOME:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(DOTENV)
    for name in PROJECT:
        project.write(f"own/{name}", (KEY if name == "deploy" else "") + DOTENV)
    project.write("own/data.txt", "to be kept")
    (project.root / "own" / "mine.txt").chmod(0o600)
    project.write(".gitignore", "own/\n")
    names = [*(str(home / name) for name in HOME), *(f"own/{name}" for name in (*PROJECT, "data.txt"))]
    project.write("train.py", f"import repro\nrepro.current().log(n=len(''.join(open(x).read() for x in {names!r})))\n")
    project.git("init", "-q")
    project.run("--", "python", "train.py")
    assert {item["path"] for item in trees.outcome(project)["inputs"]} == set(names)
    kept = trees.everything(project.store)
    assert DOTENV.encode() not in kept
    assert b"key-0123456789abcdef" not in kept
    assert b"to be kept" in kept


def test_of_many_inputs_some_are_kept(project: Project) -> None:
    """A data set of many small files is not copied whole: nobody is to wait for that."""
    for number in range(130):
        project.write(f"own/{number}.txt", str(number))
    project.write(".gitignore", "own/\n")
    project.write(
        "train.py", "import repro\nrepro.current().log(n=len([open(f'own/{i}.txt').read() for i in range(130)]))\n"
    )
    project.git("init", "-q")
    project.run("--", "python", "train.py")
    assert len(trees.outcome(project)["inputs"]) == 130
    assert len(list((project.store / "objects").glob("??/*"))) == 100 + 1  # and the listing of what lay there


def test_a_redacted_argument_cannot_be_replayed(secretive: Project) -> None:
    """What was redacted is named as a gap, and makes a replay NOT_REPLAYABLE with a hint, before anything runs."""
    done = secretive.run("--", "python", "train.py", "--lr", "0.1", "--token", OPTION)
    assert "argument 5" in [gap["what"] for gap in done["gaps"]]
    assert trees.record(secretive)["recipe"]["command"][2:] == ["--lr", "0.1", "--token", "[redacted]"]
    found = secretive.replay(check=4)
    assert (found["verdict"], found["run_id"]) == ("NOT_REPLAYABLE", None)
    assert "argument 5" in found["reason"]
    assert "variable" in found["hint"]


def test_a_secret_in_a_variable_is_no_obstacle(secretive: Project) -> None:
    """With the secret in a variable the run replays; another value is told by name, neither value is."""
    secretive.run("--", "python", "train.py", MY_API_KEY=VARIABLE)
    assert trees.identical(secretive, MY_API_KEY=VARIABLE)["differences"] == []
    found = secretive.replay(MY_API_KEY="x" * 40, check=3)
    (difference,) = found["differences"]
    assert (difference["kind"], difference["path"]) == ("environment", "variables.MY_API_KEY")
    assert VARIABLE not in str(found)


def test_a_changed_dotenv_is_told_by_name(secretive: Project) -> None:
    """A ``.env`` that the run read is linked for the replay; changed since, it is named, by a keyed digest."""
    secretive.run("--", "python", "train.py")
    (read,) = [item for item in trees.outcome(secretive)["inputs"] if item["path"] == ".env"]
    assert read["digest"].startswith("keyed:")
    assert trees.identical(secretive)["differences"] == []
    secretive.write(".env", f"TOKEN={DOTENV}2\n")
    found = secretive.replay(check=3)
    assert [item["path"] for item in found["differences"]] == ["inputs..env"]


def test_a_tracked_dotenv_is_code(project: Project) -> None:
    """An ``.env`` that the user tracks is captured: it is the user's word that it may be."""
    project.write("train.py", SCRIPT)
    project.write(".env", "SIZE=3\n")
    project.commit()
    project.run("--", "python", "train.py")
    project.write(".env", "SIZE=30\n")
    assert trees.identical(project)["differences"] == []


def test_an_origin_with_a_password(project: Project) -> None:
    """The address that a package came from is kept without its password, in the records and in the store's caches."""
    site = project.root.parent / "site"
    info = site / "thing-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: thing\nVersion: 1.0\n")
    (info / "RECORD").write_text("thing.py,sha256=x,1\n")
    (info / "direct_url.json").write_text(
        f'{{"url": "https://ada:{REMOTE}@example.org/thing.git", "vcs_info": {{"vcs": "git", "commit_id": "abc"}}}}'
    )
    project.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    project.run("--", "python", "train.py", PYTHONPATH=str(site))
    origin = trees.record(project)["circumstances"]["origins"]["value"]["thing"]["origin"]
    assert origin["url"] == "https://[redacted]@example.org/thing.git"
    assert REMOTE.encode() not in trees.everything(project.store)


SECRET = """
--token --hf-token --hf_token --access-token --github_token --wandb-api-key --api_key --apikey --openai-key-secret
--password --db-password --passwd --passphrase --secret --client-secret --private-key --auth --auth-token --credential
--credentials --access-key --accesskey --hfToken --apiKey --bearer
""".split()
HARMLESS = """
--tokenizer --max-tokens --max_new_tokens --num-tokens --tokens --token-budget --pad-token --pad_token --eos-token
--bos_token --mask-token --unk-token --sep-token --cls-token --max-token --token-dim --token_len --author --authors
--key --keys --keypoints --monkey --passes --forward-pass --compass --secretary-problem --padTokenId --tokenizer-name
--num-key-value-heads --key-dim --n-token --per-token --next-token
""".split()


@pytest.mark.parametrize("name", SECRET)
def test_options_that_hold_secrets(name: str) -> None:
    """The value of such an option is redacted, given as a word of its own or after an equals sign."""
    assert variables.redact_arguments([name, "abc"], {}) == ([name, "[redacted]"], [1])
    assert variables.redact_arguments([f"{name}=abc"], {}) == ([f"{name}=[redacted]"], [0])


@pytest.mark.parametrize("name", HARMLESS)
def test_options_that_only_sound_secret(name: str) -> None:
    """Options of language models and the like are kept: a redacted argument would make the run not replayable."""
    assert variables.redact_arguments([name, "abc", f"{name}=abc"], {}) == ([name, "abc", f"{name}=abc"], [])


@pytest.mark.parametrize(
    "text",
    [
        HUB,
        "sk-proj-abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrst1234",
        "github_pat_abcdefghijklmnopqrst1234",
        "glpat-abcdefghijklmnop12",
        "xoxb-1234567890-abcdef",
        "AKIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc-def",
    ],
)
def test_tokens_by_their_looks(text: str) -> None:
    """What looks like a token is redacted wherever it stands in an argument."""
    for word in (text, f"x={text}", f"--anything={text}", f"import os; login('{text}')"):
        (found,), places = variables.redact_arguments([word], {})
        assert (text in found, places) == (False, [0])


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("Authorization: Bearer abcdef", "Authorization: [redacted]"),
        ("--header=Authorization: Basic YWRhOng=", "--header=Authorization: [redacted]"),
        ("postgresql://ada:pw@db/x", "postgresql://[redacted]@db/x"),
        ("--dsn=postgresql://ada:pw@db/x", "--dsn=postgresql://[redacted]@db/x"),
        ("s3://bucket/x?X-Amz-Signature=abc&y=1", "s3://bucket/x?X-Amz-Signature=[redacted]&y=1"),
        ("optimizer.password=abc", "optimizer.password=[redacted]"),
        ("+trainer.hf_token=abc", "+trainer.hf_token=[redacted]"),
        ("lr=0.1", "lr=0.1"),
        ("https://example.org/x?y=1#z", "https://example.org/x?y=1#z"),
        ("git@example.org:ada/x.git", "git@example.org:ada/x.git"),
    ],
)
def test_other_words(word: str, kept: str) -> None:
    """Headers, addresses and overrides: the secret part goes, the rest stays."""
    assert variables.redact_arguments([word], {})[0] == [kept]


def test_the_value_of_a_secret_variable_is_known_anywhere() -> None:
    """An argument that repeats the value of a secret variable is redacted; short values are too common for that."""
    env = {"DB_PASSWORD": "correct horse", "AUTH": "1", "NAME": "harmless value"}
    words = ["x=correct horse battery", "1", "harmless value"]
    assert variables.redact_arguments(words, env) == (["x=[redacted] battery", "1", "harmless value"], [0])


def test_variables_of_the_recipe() -> None:
    """Listed variables are kept in clear unless their name says that they hold a secret."""
    env = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "2", "NCCL_AUTH_TOKEN": "x", "TORCH_PASSWORD": "x"}
    assert variables.recipe(env) == {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
