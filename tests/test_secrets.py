"""Secrets stay out: no token is anywhere in the store, and what was redacted is said."""

import os
import stat

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
PROJECT = ("hub_token.txt", "secrets.toml", ".aws/credentials", ".env.d/all", "deploy", "notes.csv", "mine.txt")


def test_no_input_that_may_hold_secrets_is_kept(project: Project) -> None:
    """By its name, its folder, its first line or its mode: it counts as read, its bytes are not in the store."""
    home = project.root.parent / "home"
    for name in HOME:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(DOTENV)
    for name in PROJECT:
        project.write(f"own/{name}", {"deploy": KEY, "notes.csv": f"key,{HUB}\n"}.get(name, "") + DOTENV)
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


S = "S3CR3Tvalue0123456789"
#: Arguments that hold a secret, in forms that programs take.
SECRET = [
    ["--wandb-key", S],
    ["--openai-key", S],
    [f"--env=HF_TOKEN={S}"],
    ["--env", f"HF_TOKEN={S}"],
    ["-e", f"HF_TOKEN: {S}"],
    ["--pwd", S],
    ["--db-pass", S],
    ["--password", "12345678"],
    ["--config", f'{{"api_key":"{S}", "lr": 1}}'],
    ["--config", f"{{api_key: {S}, lr: 1}}"],
    ["--config", f"'api-key' = '{S}'"],
    ["--dsn", f"host=h user=u password={S} dbname=d"],
    ["--header", f"X-Api-Key:{S}"],
    ["-H", f"Authorization: Basic {S}"],
    ["-H", f"Cookie: session={S}"],
    ["--cookie", f"session={S}"],
    ["-u", f"ada:{S}"],
    ["--user", f"ada:{S}"],
    [f"postgres://u:a/{S}@h/d"],
    [f"https://u:a@{S}@h/d"],
    [f"--url=redis://:{S}@h:6379/0"],
    [f"https://h/x?sig={S}&y=1"],
    ["ASIAABCDEFGHIJ234567"],
    ["npm_" + "a1" * 18],
    ["sk_live_" + "a1" * 12],
    ["rk_test_" + "a1" * 12],
    ["SG." + "a1" * 11 + "." + "b2" * 20],
    ["xoxe-1-" + "a1" * 10],
    ["https://hooks.slack.com/services/T000/B000/" + "a1" * 12],
    ["ya29." + "a1" * 20],
    ["GOCSPX-" + "a1" * 14],
    ["wandb_v1_" + "a1" * 20],
    ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"],
    ["gsk_" + "a1" * 20],
    ["1234567890:AA" + "a1" * 16 + "x"],
    ["hook=sk-proj-" + "a1" * 20],
]


@pytest.mark.parametrize("words", SECRET, ids=" ".join)
def test_an_argument_with_a_secret_is_redacted(words: list[str]) -> None:
    """Whatever its form: nothing of the secret is left, and what is around it stays."""
    found, places = variables.redact_arguments(["python", "t.py", *words], {})
    assert places == [len(words) + 1]
    assert variables.REDACTED in found[-1]
    assert not any(part in " ".join(found) for part in (S, "12345678", "a1a1", "b2b2", "234567", "c2ln"))
    assert found[2:-1] == words[:-1]


#: Arguments that look a little like secrets, and are none.
INNOCENT = [
    ["--tokenizer", "bert-base-uncased"],
    ["--max-tokens", "512"],
    ["--n-keys", "3"],
    ["--key-dim", "64"],
    ["--first-pass", "true"],
    ["--two-pass"],
    ["--assistant-token", "<|assistant|>"],
    ["--access-token", "512"],
    ["--commit", "3f786850e387550fdaab836ed7e6dc881de23001"],
    ["--sha", "a" * 64],
    ["--id", "123e4567-e89b-12d3-a456-426614174000"],
    ["--model", "hf_transformersmodel"],
    ["--env", "sk-learn-contrib-package"],
    ["--path", "/data/secret_sauce/token.txt"],
    ["--lr=1e-3"],
    ["model.pad_token=<pad>"],
    ["git+https://github.com/org/repo@main"],
    ["http://localhost:8080/path@v1.0"],
    ["--at", "12:30"],
    ["-u", "10:20"],
    ["--note", "a basic training-run of tokens: all of them"],
    ["--config", '{"lr": 0.1, "tokenizer": "bpe", "hidden": [1, 2]}'],
    ["alice@host:/data/set"],
]


@pytest.mark.parametrize("words", INNOCENT, ids=" ".join)
def test_an_argument_without_a_secret_stays(words: list[str]) -> None:
    """What is redacted cannot be replayed: names, numbers, digests, paths and times are left alone."""
    assert variables.redact_arguments(["python", *words], {}) == (["python", *words], [])


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("https://bob:S3C/RETpw@example.com/a", "https://[redacted]@example.com/a"),
        ("bob@example.com:a/b.git", "[redacted]@example.com:a/b.git"),
        ("bob:pw@example.com:a/b.git", "[redacted]@example.com:a/b.git"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("ssh://bob@example.com/a", "ssh://[redacted]@example.com/a"),
        ("/srv/git/a@b.git", "/srv/git/a@b.git"),
    ],
)
def test_remotes_are_shown_without_their_users(remote: str, shown: str) -> None:
    """User and password of a URL, and the user of ``user@host:path``, but for everybody's git."""
    assert variables.redact_remote(remote) == shown


def test_values_of_listed_variables_are_no_way_in(secretive: Project) -> None:
    """A listed variable whose value is a secret is kept as a keyed hash; PYTHONPATH is redacted."""
    env = {"TORCH_HOME": f"https://u:{OPTION}@h/x", "PYTHONPATH": f"/a/{HUB}"}
    secretive.run("--", "python", "train.py", **env)
    kept = trees.everything(secretive.store)
    assert OPTION.encode() not in kept
    assert HUB.encode() not in kept


def test_a_store_is_its_owners(project: Project) -> None:
    """Nobody else enters it, whatever the umask; a folder that is given keeps the mode that it has."""
    project.write("t.py", "pass\n")
    os.umask(0o002)
    try:
        project.run("--", "python", "t.py")
        given = project.root / "given"
        given.mkdir(mode=0o750)
        project.run("--", "python", "t.py", REPRO_STORE=str(given))
    finally:
        os.umask(0o022)
    assert stat.S_IMODE(project.store.stat().st_mode) == 0o700
    assert stat.S_IMODE(given.stat().st_mode) == 0o750


#: Untracked files that are no code for what they are called, and some that are.
LEFT_OUT = (
    "api_token.txt password.txt credentials.json secrets.yaml hf_token .npmrc prod.env kaggle.json .huggingface/token"
    " .vault_pass db_password.ini client_secret.json deploy.jks wandb_api_key.txt sub/.netrc"
).split()
CAPTURED = (
    "token_utils.py secrets.py password_strength.ipynb tokenizer.json special_tokens.txt vocab/tokens.json keys.csv"
    " passes.txt README_secrets.md environment.yml env.yaml"
).split()


def test_files_that_hold_secrets_are_no_code(project: Project) -> None:
    """By name, by folder, or by what is in them: each is a gap by name; code is captured whatever it is called."""
    project.write("t.py", "pass\n")
    project.commit()
    for name in (*LEFT_OUT, *CAPTURED):
        project.write(name, "{}" if name.endswith("ipynb") else f"# {name}\n")
    project.write("notes.txt", f"my key: {HUB}\n")
    project.write("conf.ini", f"x\n{KEY}")
    project.write("own.py", f"KEY = '{HUB}'\n")
    done = project.run("--", "python", "t.py")
    reasons = {gap["what"]: gap["reason"] for gap in done["gaps"]}
    assert {"notes.txt", "conf.ini", *LEFT_OUT} - {*reasons} <= {".huggingface/token"}
    assert any(what.startswith(".huggingface") for what in reasons)
    assert "captured as it is" in reasons.pop("own.py")
    kept = trees.everything(project.store)
    assert not [name for name in LEFT_OUT if f"# {name}\n".encode() in kept]
    assert {*CAPTURED} & {*reasons} == set()
    assert all(f"# {name}\n".encode() in kept for name in CAPTURED if not name.endswith("ipynb"))
