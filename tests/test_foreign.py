"""A store, a record or a project from somebody else: nothing in it is run, obeyed, written to or removed unasked."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, clean_environment

from repro.base import canonical, digest, journal

RUN = 'print("loss=1")\n'


def forge(project: Project, run_id: str, change: Callable[[Any], None]) -> None:
    """Change a run's record, and compute the journal anew, as whoever hands over a store can."""
    path = project.store / "runs" / run_id / "record.json"
    path.chmod(0o644)
    value = canonical.loads(path.read_bytes())
    change(value)
    path.write_bytes(canonical.dumps(value) + b"\n")
    book, previous, lines = project.store / "journal.jsonl", journal.GENESIS, b""
    for number, line in enumerate(book.read_bytes().splitlines()):
        entry = {name: item for name, item in json.loads(line).items() if name != "sum"}
        entry |= {"seq": number, "prev": previous, "digest": digest.of_file(project.store / entry["path"])}
        sealed = canonical.dumps(entry | {"sum": digest.of_bytes(canonical.dumps(entry))})
        previous, lines = digest.of_bytes(sealed), lines + sealed + b"\n"
    book.chmod(0o644)
    book.write_bytes(lines)


@pytest.fixture
def elsewhere(project: Project, tmp_path: Path) -> dict[str, str]:
    """A project with one run, and the environment of another user, with a state folder of their own."""
    project.write("n.py", RUN)
    project.commit()
    project.run("--metric", "loss", "--", "python", "n.py")
    return {"XDG_STATE_HOME": str(tmp_path / "state of another")}


# --- trust -----------------------------------------------------------------------------------------------------------

RUNNING = [
    ("replay", "last"),
    ("diagnose", "last"),
    ("lock", "--from", "last"),
    ("docker", "export", "last"),
    ("docker", "build", "last"),
    ("docker", "run", "last"),
]


@pytest.mark.parametrize("words", RUNNING, ids=" ".join)
def test_nothing_of_a_record_from_elsewhere_is_run_unasked(
    project: Project, elsewhere: dict[str, str], words: tuple[str, ...]
) -> None:
    """Each command that would run something refuses with exit code 2, and says how to go on; looking is free."""
    done = project.repro(*words, **elsewhere, check=2)
    assert "was not recorded here by you" in done.err
    assert "--trust" in done.err
    for looking in (("show", "last"), ("verify",), ("ls",), ("log", "last"), ("diff", "last", "last")):
        project.repro(*looking, **elsewhere, check=0)


@pytest.mark.parametrize("option", ["--trust", "--trust-store"])
def test_trust_is_asked_for_once(project: Project, elsewhere: dict[str, str], option: str) -> None:
    """A record is trusted from then on; with ``--trust-store`` so are the others of the store."""
    other = project.run("--", "python", "n.py")["run_id"]
    assert project.replay("last~1", option, **elsewhere)["verdict"] == "IDENTICAL"
    assert project.replay("last~1", **elsewhere)["verdict"] == "IDENTICAL"
    project.repro("replay", other, **elsewhere, check=0 if option == "--trust-store" else 2)


def test_a_key_that_signed_the_journal_is_trusted(project: Project, elsewhere: dict[str, str], tmp_path: Path) -> None:
    """``--trust-key`` trusts what that key signed, in this store and in others; what came after is not signed."""
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    first = json.loads(project.repro("ls", "--json").out)[0]["run_id"]
    assert "no key has signed" in project.repro("replay", first, "--trust-key", **elsewhere, check=2).err
    project.repro("sign", "--key", str(key), check=0)
    later = project.run("--", "python", "n.py")["run_id"]
    assert project.replay(first, "--trust-key", **elsewhere)["verdict"] == "IDENTICAL"
    project.repro("replay", later, **elsewhere, check=2)


@pytest.mark.usefixtures("elsewhere")
def test_a_record_that_was_changed_is_not_made_here(project: Project) -> None:
    """The note is of the record's bytes: a forged one, with its journal computed anew, is somebody else's."""
    run_id = json.loads(project.repro("ls", "--json").out)[0]["run_id"]
    assert project.replay(run_id)["verdict"] == "IDENTICAL"
    forge(project, run_id, lambda record: record.__setitem__("name", "another"))
    project.repro("replay", run_id, check=2)


# --- names -----------------------------------------------------------------------------------------------------------

HASH = "sha256:" + "0" * 64


def at(*path: Any, to: Any) -> Callable[[Any], None]:
    """Return what puts ``to`` at a path of a document."""

    def change(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = to

    return change


UNSAFE = {
    "a wheel above": at("circumstances", "environment", "wheels", to={"x": {"file": "../x", "digest": HASH}}),
    "a wheel's name": at("circumstances", "environment", "wheels", to={"x/y": {"file": "x", "digest": HASH}}),
    "a wheel's digest": at(
        "circumstances", "environment", "wheels", to={"x": {"file": "x", "digest": "sha256:../../../etc/passwd"}}
    ),
    "an editable's file": at("circumstances", "environment", "editables", to={"x": {"../../x.pth": ""}}),
    "an absolute file": at("circumstances", "environment", "editables", to={"x": {"/etc/x.pth": ""}}),
    "a source": at("recipe", "sources", to={"../x": "git:" + "0" * 40}),
    "the tree": at("recipe", "code", to="--output=/tmp/x"),
    "the folder": at("recipe", "cwd", to="../../.."),
    "the root": at("circumstances", "project", "root", to="/tmp/../etc"),
    "a relative root": at("circumstances", "project", "root", to="x"),
    "a made folder": at("circumstances", "project", "folders", to=["a/../../b"]),
    "the listing": at("circumstances", "project", "beside", to="sha256:../x"),
    "a package": at("recipe", "packages", to=[{"name": "../x", "version": "1", "digest": HASH}]),
    "a line in a package": at("recipe", "packages", to=[{"name": "x", "version": "1\nRUN x", "digest": HASH}]),
    "the replayed run": at("replay_of", to="../x"),
}


@pytest.mark.parametrize("what", UNSAFE)
@pytest.mark.usefixtures("elsewhere")
def test_a_record_names_nothing_outside(project: Project, what: str) -> None:
    """Whatever leads elsewhere stops every command that would use it; ``verify`` says so of a sound store."""
    run_id = json.loads(project.repro("ls", "--json").out)[0]["run_id"]
    forge(project, run_id, UNSAFE[what])
    done = project.repro("replay", run_id, "--trust", check=5)
    assert "is not safe to use" in done.err
    assert "Traceback" not in done.err
    assert "not used" in project.repro("verify", check=0).out
    project.repro("ls", check=0)


@pytest.mark.usefixtures("elsewhere")
def test_a_line_of_the_journal_leads_to_no_other_file(project: Project) -> None:
    """``verify`` reads files of the store alone, and only files: no device, no pipe."""
    book = project.store / "journal.jsonl"
    book.chmod(0o644)
    for place in ("../../../dev/zero", "/dev/zero"):
        text = book.read_text()
        entry = {**json.loads(text.splitlines()[0]), "path": place}
        book.write_text(json.dumps(entry) + "\n" + text)
        done = subprocess.run(
            ["repro", "verify"], cwd=project.root, env=clean_environment(), capture_output=True, timeout=60, check=False
        )
        assert done.returncode in (3, 5)
        book.write_text(text)


@pytest.mark.usefixtures("elsewhere")
def test_a_dockerfile_has_the_lines_that_we_write(project: Project, tmp_path: Path) -> None:
    """A name, a folder or a variable with a line break adds no instruction."""
    run_id = json.loads(project.repro("ls", "--json").out)[0]["run_id"]
    forge(project, run_id, lambda record: record.update(name="x\nRUN touch /tmp/pwned\rRUN x\u2028RUN y"))
    project.repro("docker", "export", run_id, "--trust", "--output", str(tmp_path / "context"), check=0)
    lines = (tmp_path / "context" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("RUN") and "--mount" not in line] == []
    for change in (at("recipe", "cwd", to="a\nRUN x"), at("recipe", "environment", to={"A=1\nRUN x": "y"})):
        forge(project, run_id, change)
        project.repro("docker", "export", run_id, "--trust", "--output", str(tmp_path / "other"), check=4)
        assert not (tmp_path / "other").exists()
        forge(project, run_id, lambda record: record["recipe"].update(cwd=".", environment={}))


# --- git -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["config", "objects/info/alternates", "commondir", "info/attributes", "config.worktree"]
)
@pytest.mark.usefixtures("elsewhere")
def test_git_obeys_no_file_of_a_store(project: Project, name: str) -> None:
    """What sends git elsewhere, or names a program, is damage: named by ``verify``, and git is not called."""
    path = project.store / "code.git" / name
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("[core]\n\tsshCommand = touch PWNED\n")
    assert f"code.git/{name}" in project.repro("verify", check=3).out
    for words in (("replay", "last"), ("diff", "last", "last"), ("run", "--", "python", "n.py")):
        done = project.repro(*words)
        assert (done.code == 0) is (words[0] == "diff"), done.err
        assert "Traceback" not in done.err
    assert not list(project.root.rglob("PWNED"))


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("elsewhere")
def test_only_what_the_store_made_is_removed(project: Project, tmp_path: Path) -> None:
    """``work`` that leads to a scratch disk keeps what else lies there, under names like ours too; ours are removed."""
    names = ("thesis", "20261124-063315-k3f9x2ab", ".20261124-063315-k3f9x2ab")
    for name in names:
        (tmp_path / "scratch" / name).mkdir(parents=True)
        (tmp_path / "scratch" / name / "t.tex").write_text("x")
    (tmp_path / "scratch" / names[1] / "lock").write_text("")
    (project.store / "work").rmdir()
    (project.store / "work").symlink_to(tmp_path / "scratch")
    kept = Path(json.loads(project.repro("replay", "last", "--keep", "--json", check=0).out)["folder"])
    ours = next(path for path in (tmp_path / "scratch").iterdir() if kept.resolve().is_relative_to(path.resolve()))
    (ours / "kept").unlink()
    project.run("--", "python", "n.py")
    assert not ours.exists()
    assert all((tmp_path / "scratch" / name / "t.tex").exists() for name in names)


@pytest.mark.usefixtures("elsewhere")
def test_another_database_is_no_index(project: Project, tmp_path: Path) -> None:
    """A link, or a database in its place, is left alone, also one with a table ``runs``; lists are made in memory."""
    index = project.store / "index.sqlite"
    base = tmp_path / "mlflow.db"
    with sqlite3.connect(base) as connection:
        connection.execute("create table runs (run_uuid text)")
        connection.execute("insert into runs values ('a')")
    before = base.read_bytes()
    for place in (lambda: index.symlink_to(base), lambda: shutil.copy(base, index)):
        index.unlink(missing_ok=True)
        place()
        assert len(project.repro("ls", "--json", check=0).json) == 1
        assert index.read_bytes() == before
    index.unlink()
    index.write_bytes(b"not a database")
    project.repro("ls", check=0)
    assert index.read_bytes().startswith(b"SQLite format 3")


@pytest.mark.usefixtures("elsewhere")
def test_the_index_of_another_store_is_left_alone(project: Project, tmp_path: Path) -> None:
    """Reached by a link it has our mark, and is still none of this store's: nothing of it is made anew."""
    index = project.store / "index.sqlite"
    project.repro("ls", check=0)
    other = shutil.copy(index, tmp_path / "other.sqlite")
    with sqlite3.connect(other) as connection:
        connection.execute("update runs set name = 'of another store'")
        connection.execute("update head set digest = 'another'")
    before = other.read_bytes()
    index.unlink()
    index.symlink_to(other)
    assert project.repro("ls", "--json", check=0).json[0]["name"] == "n.py"
    assert other.read_bytes() == before


def test_a_store_behind_a_link(project: Project, tmp_path: Path) -> None:
    """``.repro`` may lie on a larger disk: nothing of it is code, it is no gap, and a replay is watched as ever."""
    (tmp_path / "large").mkdir()
    project.store.symlink_to(tmp_path / "large")
    project.write("n.py", RUN)
    done = project.run("--metric", "loss", "--", "python", "n.py")
    assert done["gaps"] == []
    again = project.run("--metric", "loss", "--", "python", "n.py")
    assert again["recipe_digest"] == done["recipe_digest"]
    replayed = project.replay(again["run_id"])
    assert (replayed["verdict"], replayed["denied"]) == ("IDENTICAL", [])


# --- what lies about in a killed run ---------------------------------------------------------------------------------

STRAYS = {
    "a foreign line": ("observed", "0-x.jsonl", lambda path: path.write_text('{"kind": "read"}\n')),
    "no points": ("metrics", "0-x.jsonl", lambda path: path.write_text('{"m": 3}\n')),
    "a word": ("metrics", "0-x.jsonl", lambda path: path.write_text('{"m": {"a": "b"}, "step": "c"}\n')),
    "a folder": ("metrics", "0-x.jsonl", Path.mkdir),
    "no trail": ("trail", "x.rows", lambda path: path.write_text("x")),
    "a pipe": ("artifacts", "pipe", os.mkfifo),
    "a loop": ("inputs", "loop", lambda path: path.symlink_to(path)),
}


@pytest.mark.parametrize("what", STRAYS)
def test_a_stray_file_in_a_killed_run_is_set_apart(project: Project, what: str) -> None:
    """It is named; the killed run is LOST with what it logged, and the next run goes on and is whole."""
    project.write(
        "s.py", "import repro, time\nrepro.current().log(acc=1)\nprint('logged', flush=True)\ntime.sleep(60)\n"
    )
    project.write("n.py", RUN)
    project.commit()
    command = ["repro", "run", "--", "python", "s.py"]
    process = subprocess.Popen(command, cwd=project.root, env=clean_environment(), stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"logged\n"
    process.kill()
    process.communicate()
    (folder,) = (project.store / "runs").iterdir()
    part, name, make = STRAYS[what]
    make(folder / part / name)
    done = project.run("--metric", "loss", "--", "python", "n.py")
    assert (done["state"], done["gaps"]) == ("COMPLETED", [])
    lost = project.repro("show", folder.name, "--json", check=0).json["outcome"]
    assert (lost["state"], lost["metrics"]) == ("LOST", {"acc": 1.0})
    assert [note for note in lost["notes"] if f"{part}/{name}" in note]
    assert os.path.lexists(folder / "strays" / part / name)
    project.repro("verify", check=0)


# --- the user's repository -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clean", "process", "smudge"])
def test_no_filter_of_the_project_is_run(project: Project, tmp_path: Path, kind: str) -> None:
    """Facts about the working tree come without the programs that its configuration names, required ones too."""
    script = tmp_path / "filter.sh"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/RAN\ncat\n")
    script.chmod(0o755)
    project.write("n.py", RUN)
    project.write("big.dat", "1")
    project.write(".gitattributes", "*.dat filter=odd.name\n")
    project.commit()
    for key, value in ((kind, str(script)), ("required", "true")):
        project.git("config", f"filter.odd.name.{key}", value)
    for text in ("1", "2"):
        project.write("big.dat", text)
        run = project.run("--metric", "loss", "--", "python", "n.py")
        git = project.repro("show", run["run_id"], "--json", check=0).json["record"]["circumstances"]["git"]
        assert git["value"]["dirty"] is (text == "2")
    assert not (tmp_path / "RAN").exists()


# --- what a screen obeys ---------------------------------------------------------------------------------------------

NAMES = [
    "a\x1b]0;TITLE\x07\x1b[2Jb",
    "x\n20261201-000000-aaaaaaaa  COMPLETED  fake",
    "l\u202er",
    "acc[/top1]",
    "c\x9bd\rz",
]


def test_names_are_text_on_every_screen(project: Project) -> None:
    """Metrics, parameters, files and experiments with control characters forge no line and move no cursor."""
    project.write(
        "m.py", f"import repro\nrun = repro.current()\nfor name in {NAMES!r}:\n    run.log({{name: 1.0}}, step=0)\n"
    )
    project.write(
        "m.py", (project.root / "m.py").read_text() + "open('f\\x1b[2J\\nz', 'w').write('1')\nprint('\\x1b[2J')\n"
    )
    run = project.run("--", "python", "m.py")["run_id"]
    commands = [("ls",), ("show", run), ("log", run), ("replay", run), ("replay", run, "--with", "seed=2"), ("verify",)]
    commands += [("diff", run, "last"), ("seeds", "--n", "2", "--", "python", "m.py", "{seed}")]
    for words in commands:
        done = project.repro(*words)
        text = done.err + ("" if words[0] == "replay" else done.out)  # a replay shows the script's own output
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & {*text}, words
        assert not any(line.startswith("20261201-000000-aaaaaaaa") for line in text.splitlines()), words
        assert "Traceback" not in done.err
    names = project.repro("show", run, "--json", check=0).json["outcome"]["metrics"]
    assert set(names) == {*NAMES}


def test_markup_in_names_aborts_no_study(project: Project) -> None:
    """In a terminal the tables that are drawn anew show names as they are, square brackets too."""
    project.write("m.py", 'import repro\nrepro.current().log({"acc[/top1]": 1.0, "[bold]x": 2.0}, step=0)\n')
    command = "repro seeds --n 2 --workers 1 -- python m.py {seed}"
    words = ["script", "-qec", command, "/dev/null"]
    done = subprocess.run(
        words, cwd=project.root, env=clean_environment(TERM="xterm"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "acc[/top1]" in done.stdout


# --- what is no file, and YAML that grows ----------------------------------------------------------------------------


def test_what_is_no_file_is_no_artifact_and_no_data(project: Project) -> None:
    """A pipe or a device is refused at once, in words; reading one is nobody's business."""
    os.mkfifo(project.root / "pipe")
    project.write(
        "t.py",
        "def train(run):\n    for name in ('pipe', '/dev/zero', '.'):\n        try:\n"
        "            run.artifact(name)\n        except ValueError as error:\n            print(error)\n",
    )
    for name in ("pipe", "/dev/zero"):
        project.write("e.yaml", f"name: e\nentry: t.py:train\ndata: {{d: {name}}}\n")
        assert f"data.d: {name} is a pipe or a device" in project.repro("run", "e.yaml", check=2).err
    project.write("e.yaml", "name: e\nentry: t.py:train\n")
    assert project.repro("run", "e.yaml", check=0).out.count("an artifact is a file") == 3


YAML = {
    "aliases": "params:\n  a: &a [l,l,l,l,l,l,l,l,l]\n"
    + "".join(f"  {chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)),
    "brackets": f"params:\n  a: {'[' * 5000}{']' * 5000}\n",
    "braces": f"params:\n  a: {'{a: ' * 5000}1{'}' * 5000}\n",
    "indents": "params:\n" + "".join(f"{'  ' * depth}a:\n" for depth in range(1, 3000)),
    "dashes": f"params:\n  a: {'- ' * 3000}1\n",
}


@pytest.mark.parametrize("kind", YAML)
def test_yaml_that_grows_is_refused_at_once(project: Project, kind: str) -> None:
    """Within seconds and a little memory, with the line."""
    project.write("t.py", "def train(run):\n    pass\n")
    project.write("e.yaml", f"name: e\nentry: t.py:train\n{YAML[kind]}")
    command = ["bash", "-c", "ulimit -v 3000000; exec timeout 30 repro run e.yaml"]
    done = subprocess.run(
        command, cwd=project.root, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "e.yaml:" in done.stderr


def test_a_folder_whose_name_is_no_utf8(project: Project) -> None:
    """What was run there can be looked at, replayed and studied."""
    place = os.fsencode(project.root) + b"/bad\xff"
    os.mkdir(place)
    home = Project(Path(os.fsdecode(place)))
    home.write("n.py", RUN)
    home.commit()
    home.run("--metric", "loss", "--", "python", "n.py")
    for words in (
        ("ls",),
        ("show", "last"),
        ("log", "last"),
        ("replay", "last"),
        ("verify",),
        ("diff", "last", "last"),
    ):
        home.repro(*words, check=0)
    home.repro("seeds", "--n", "2", "--metric", "loss", "--", "python", "n.py", check=0)
