"""The experiment file: read strictly, so that a typing error is an error that names its line and the nearest key."""

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ConfigError
from repro.run import config, yaml12

GOOD = "name: a\nentry: train.py:train\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script that has a function."""
    (tmp_path / "train.py").write_text("import math\n\ndef train(run): pass\n\ndef evaluate(run): pass\n")
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def load(folder: Path, text: str | bytes, *changes: str) -> config.Experiment:
    """Read an experiment file of this text."""
    path = folder / "e.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(path, changes)


BAD = {
    "unknown key": (GOOD + "param: {lr: 1}\n", 3, "param: unknown key 'param'", "did you mean 'params'?"),
    "unknown key of a metric": (
        GOOD + "metrics:\n  ok: {}\n  acc: {directoin: maximize}\n",
        5,
        "metrics.acc.directoin: unknown key",
        "did you mean 'direction'? expected: direction, tolerance, compare",
    ),
    "unknown key of a tolerance": (
        GOOD + "metrics:\n  acc:\n    tolerance:\n      abss: 1\n",
        6,
        "metrics.acc.tolerance.abss: unknown key",
        "did you mean 'abs'? expected: abs, rel",
    ),
    "unknown key of a metric named tolerance": (
        GOOD + "metrics:\n  tolerance: {directoin: maximize}\n",
        4,
        "metrics.tolerance.directoin: unknown key",
        "did you mean 'direction'?",
    ),
    "unknown direction": (
        GOOD + "metrics:\n  acc: {direction: up}\n",
        4,
        "metrics.acc.direction: 'up' is not known",
        "expected: maximize, minimize",
    ),
    "unknown profile": (
        GOOD + "determinism: stict\n",
        3,
        "determinism: 'stict' is not known",
        "did you mean 'strict'? expected: strict, portable, warn, off",
    ),
    "unknown comparison": (GOOD + "metrics: {a: {compare: nevr}}\n", 3, "'nevr' is not known", "did you mean 'never'?"),
    "text for a metric": (GOOD + "metrics:\n  acc: maximize\n", 4, "metrics.acc: a mapping is expected, not text", ""),
    "a list for metrics": (GOOD + "metrics: [acc]\n", 3, "metrics: a mapping is expected, not a list", ""),
    "a list for params": (GOOD + "params: [1]\n", 3, "params: a mapping is expected, not a list", ""),
    "a mapping for a parameter": (
        GOOD + "params:\n  lr: 1\n  opt:\n    name: sgd\n",
        5,
        "params.opt: .* not a mapp",
        "",
    ),
    "a mapping in a list": (GOOD + "params:\n  xs: [1,\n    {a: 2}]\n", 5, "params.xs.1: .* holds no mappings", ""),
    "text for a number": (GOOD + "threads: two\n", 3, "threads: a whole number is expected, not text", ""),
    "a fraction for a whole number": (GOOD + "threads: 1.5\n", 3, "threads: a whole number is expected", ""),
    "too few threads": (GOOD + "threads: 0\n", 3, "threads: a whole number >= 1 is expected", ""),
    "a negative seed": (GOOD + "seed: -1\n", 3, "seed: a whole number >= 0 is expected", ""),
    "a negative tolerance": (GOOD + "metrics: {a: {tolerance: {abs: -1}}}\n", 3, "metrics.a.tolerance.abs: .*>= 0", ""),
    "a number for a name": ("name: 3\nentry: train.py:train\n", 1, "name: text is expected, not a whole number", ""),
    "an empty name": ('name: ""\nentry: train.py:train\n', 1, "name: text that is not empty is expected", ""),
    "no name": ("entry: train.py:train\n", 1, "the key 'name' is missing", ""),
    "a number for data": (GOOD + "data:\n  ok: train.py\n  x: 3\n", 5, "data.x: text is expected", ""),
    "entry and command": (GOOD + "command: python train.py\n", 3, "only one is expected", ""),
    "neither": ("name: a\n", None, "one of `entry` and `command` is expected", "entry: train.py:train"),
    "a key twice": (GOOD + "params:\n  lr: 1\n  b: 2\n  lr: 3\n", 6, r"params.lr: .* twice \(first on line 4\)", ""),
    "a key twice at the top": ("name: a\n" + GOOD, 2, r"name: .* twice \(first on line 1\)", ""),
    "empty": ("", None, "a mapping is expected", "repro schema"),
    "a list": ("- a\n", None, "a mapping is expected", "repro schema"),
    "text": ("hello\n", None, "a mapping is expected", "repro schema"),
    "tabs": (GOOD + "params:\n\tlr: 1\n", 4, r"not valid YAML: .*'\\t'", ""),
    "not YAML": ("name: [a\nentry: }\n", 2, "not valid YAML: .*expected", ""),
    "two documents": (GOOD + "---\nname: b\n", 3, "not valid YAML: expected a single document", ""),
    "a NUL": (b"name: a\0\n", None, "not valid YAML: .*x0000", ""),
    "not UTF-8": ("name: é\n".encode("latin-1"), None, "is not UTF-8: .* at byte 6", ""),
    "an alias within itself": (GOOD + "params: {a: &x [*x]}\n", 3, "params.a.0: an alias to what it stands in", ""),
    "a merge key": (GOOD + "params:\n  <<: {a: 1}\n", 4, "<< is no merge key", ""),
    "a key that is a list": (GOOD + "params: {[1, 2]: 3}\n", 3, "a key that is no text", ""),
    "a tag": (GOOD + "params: {a: !!python/object:os.system x}\n", 3, r"tags \(!!python/object:os.system\)", ""),
    "a number of too many digits": (
        GOOD + f"params: {{a: {'1' * 5000}}}\n",
        3,
        "params.a: a number of 5,000 digits",
        "",
    ),
    "no such file": ("name: a\nentry: trian.py:train\n", 2, "there is no file .*trian.py", "did you mean 'train.py'?"),
    "no such function": (
        "name: a\nentry: train.py:trian\n",
        2,
        "train.py has no function 'trian'",
        "did you mean 'train'? expected: evaluate, train",
    ),
    "no function named": ("name: a\nentry: train.py\n", 2, "is not FILE:FUNCTION", "entry: train.py:train"),
    "an unknown name in the command": (
        "name: a\nparams: {lr: 1}\ncommand: python train.py --lr {lrr}\n",
        3,
        "{lrr} is no parameter",
        "did you mean 'lr'? expected: lr, seed",
    ),
    "a parameter that hides the seed": (
        "name: a\nparams: {seed: 1}\ncommand: python train.py {seed}\n",
        3,
        "a parameter named seed",
        "`seed: N` beside params",
    ),
    "an open quotation": ('name: a\ncommand: python "train.py\n', 2, "command: no closing quotation", ""),
    "an empty command": ('name: a\ncommand: ""\n', 2, "command: text that is not empty", ""),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_is_named_with_its_line(folder: Path, what: str) -> None:
    """The error has the file, the line, the place, what was expected, and as a hint the nearest key."""
    text, line, said, hint = BAD[what]
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    where = re.escape(str(folder / "e.yaml")) + (f":{line}" if line else "")
    assert re.match(f"{where}: ", str(caught.value))
    assert re.search(said, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["no.yaml"], "no.yaml: no such file", "repro run takes"),
        (["folder.yaml"], "folder.yaml: cannot be read: Is a directory", None),
        (["e.yaml", "more"], "takes no further words: more", "--set NAME=VALUE"),
        (["e.yaml", "--set", "lrr=1"], "--set lrr=1: params.lrr: no such parameter", "did you mean 'lr'?"),
        (["e.yaml", "--determinism", "stict"], "'stict' is not one of", None),
        (["e.yaml", "--threads", "0"], "0 is not in the range", None),
        (["e.yaml", "--seed", "x"], "--seed x: a whole number", None),
        (["e.yaml", "--seed", "²"], "--seed ²: a whole number", None),
        (["e.yaml", "--seed", "-1"], "--seed -1", None),
        (["bad.yaml"], "bad.yaml:1: the key 'name' is missing", None),
        (["missing-data.yaml"], "data.x: nothing is at none.csv", "a file, a folder or a glob is expected"),
        (["--set", "a=1", "--", "true"], "--set changes a parameter of an experiment file", None),
        ([], "nothing to run", "repro run experiment.yaml"),
        (["--", "python", "trian.py"], "there is no script trian.py", "did you mean 'train.py'?"),
        (["--", "nosuchprogram"], "cannot find the program 'nosuchprogram'", "on PATH"),
        (["--metric", "acc=(", "--", "true"], "not a regular expression", "--metric NAME=REGEX"),
        (["--metric", "acc ", "--", "true"], "one group for the value", "--metric loss finds loss=0.5"),
        (["--metric", "[Ll]oss=(.*)", "--", "true"], "what the metric is called is not clear", "--metric NAME=REGEX"),
        (["--metric", "a", "--metric", "a=b (.*)", "--", "true"], "the metric a has a pattern already", "a_2="),
    ],
)
def test_a_mistake_on_the_command_line(project: Project, words: list[str], said: str, hint: str | None) -> None:
    """It is exit 2, an error and a hint on standard error, no traceback; nothing is run and nothing recorded."""
    project.write("train.py", "def train(run): open('ran', 'w')\n")
    project.write("e.yaml", GOOD + "params: {lr: 0.1}\n")
    project.write("bad.yaml", "entry: train.py:train\n")
    project.write("missing-data.yaml", GOOD + "data: {x: none.csv}\n")
    project.write("folder.yaml/x", "")
    done = project.repro("run", *words, check=2)
    assert done.out == ""
    assert said in done.err
    assert done.err.startswith("error: ")
    assert hint is None or hint in done.err.partition("\nhint: ")[2]
    assert "Traceback" not in done.err
    assert not (project.root / "ran").exists()
    assert project.repro("ls", "--json", check=0).json == []


# --- scalars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.0", -0.0),
        ("1_000", "1_000"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
        ('"off"', "off"),
        ("NaN", "NaN"),
        ("1e", "1e"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    """`off` is text, `1e-4` a number, `010` ten, and a date is text: as YAML 1.2 says, not as 1.1 does."""
    found = yaml12.parse(f"a: {text}\n", "x").value["a"]
    assert (type(found), repr(found)) == (type(value), repr(value))


@given(st.floats(allow_nan=False) | st.integers())
def test_a_number_that_python_writes_is_read_back(value: Any) -> None:
    """What a program writes into a file as a number comes back as that number, floats to the last bit."""
    found = yaml12.scalar(repr(value).replace("inf", ".inf"))
    assert (type(found), repr(found)) == (type(value), repr(value))


@given(st.text())
def test_any_text_is_a_document_or_an_error(text: str) -> None:
    """No text makes the reader raise anything but ConfigError."""
    with contextlib.suppress(ConfigError):
        yaml12.parse(text, "x")


# --- changes ---------------------------------------------------------------------------------------------------------

PARAMS = GOOD + "params: {lr: 0.1, n: 3, opt: sgd, flag: true, xs: [1, 2], none: null}\n"


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ("lr=1", "lr", 1.0),
        ("lr=1e-4", "lr", 1e-4),
        ("params.lr=2", "lr", 2.0),
        ("n=4", "n", 4),
        ("n=0x10", "n", 16),
        ("opt=off", "opt", "off"),
        ("opt=1", "opt", "1"),
        ("opt=", "opt", ""),
        ("opt=a=b", "opt", "a=b"),
        ("opt=null", "opt", None),
        ('opt="null"', "opt", "null"),
        ("opt='a b'", "opt", "a b"),
        ("flag=false", "flag", False),
        ("xs=[off, 1e-4]", "xs", ["off", 1e-4]),
        ("none=3", "none", 3),
        ("none=off", "none", "off"),
    ],
)
def test_a_change_has_the_parameters_own_type(folder: Path, change: str, name: str, value: Any) -> None:
    """--set reads as the file does, and keeps the type that the file has: an int for a float, any scalar for text."""
    found = load(folder, PARAMS, change).params
    assert (type(found[name]), found[name]) == (type(value), value)
    assert {key: item for key, item in found.items() if key != name} == {
        key: item for key, item in load(folder, PARAMS).params.items() if key != name
    }


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        ("lr", "NAME=VALUE is expected", "--set lr=0.05"),
        ("lrr=1", "params.lrr: no such parameter", "did you mean 'lr'? expected: flag, lr, n, none, opt, xs"),
        ("=1", "no such parameter", "expected: "),
        ("lr=x", "params.lr: a number is expected, as in the file (0.1)", ""),
        ("lr=", "a value is expected after =", "--set lr=null"),
        ("lr=true", "params.lr: a number is expected", ""),
        ("n=2.5", "params.n: a whole number is expected, as in the file (3)", ""),
        ("n=true", "params.n: a whole number is expected", ""),
        ("flag=yes", "params.flag: true or false is expected, as in the file (True)", ""),
        ("flag=1", "params.flag: true or false is expected", ""),
        ("xs=3", "params.xs: a list is expected", ""),
        ("xs=[1", "params.xs: a list is expected", ""),
        ("xs=[{a: 1}]", "holds no mappings", ""),
        ("opt=[1]", "params.opt: text is expected, as in the file ('sgd')", ""),
        (f"n={'1' * 5000}", "params.n: a whole number is expected", ""),
    ],
)
def test_a_bad_change_is_named(folder: Path, change: str, said: str, hint: str) -> None:
    """An unknown name, a wrong type or no = is an error with the change, what was expected, and the nearest name."""
    with pytest.raises(ConfigError) as caught:
        load(folder, PARAMS, change)
    assert str(caught.value).startswith(f"--set {change}: ")
    assert said in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_the_order_of_parameters_has_no_effect(project: Project) -> None:
    """Two files that differ in the order of their parameters make one recipe, and show their script one order."""
    project.write("train.py", "import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    for name, params in (("a", "{x: 1, b: 2}"), ("b", "{b: 2, x: 1}")):
        project.write(f"{name}.yaml", f"name: e\ncommand: python train.py {{x}} {{b}}\nparams: {params}\n")
    runs = [project.run(f"{name}.yaml") for name in "ab"]
    assert runs[0]["recipe_digest"] == runs[1]["recipe_digest"]


# --- commands --------------------------------------------------------------------------------------------------------


def test_an_unchanged_script_is_an_experiment(project: Project) -> None:
    """`command:` fills parameters and a seed of its own in, takes --set, is recorded, and replays identically."""
    project.write(
        "train.py",
        "import argparse, repro\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('--lr', type=float)\nparser.add_argument('--seed', type=int)\n"
        "parser.add_argument('--note')\n"
        "args = parser.parse_args()\n"
        "repro.current().log(lr=args.lr, seed=args.seed, note=len(args.note))\n",
    )
    project.write(
        "e.yaml",
        "name: plain\ncommand: python train.py --lr {lr} --seed {seed} --note '{note} and {lr}'\n"
        "params: {lr: 0.1, note: a b}\n",
    )
    first, again = project.run("e.yaml"), project.run("e.yaml", "--set", "lr=0.5", "--seed", "3")
    assert first["name"] == "plain"
    assert first["metrics"] == {"lr": 0.1, "note": 11.0, "seed": first["metrics"]["seed"]}
    assert again["metrics"]["lr"] == 0.5
    assert again["metrics"]["seed"] != first["metrics"]["seed"]
    assert 0 <= first["metrics"]["seed"] < 2**32
    record = project.repro("show", first["run_id"], "--json", check=0).json["record"]
    assert record["recipe"]["params"] == {"lr": 0.1, "note": "a b"}
    assert record["recipe"]["command"][-1] == "a b and 0.1"
    assert project.replay(again["run_id"], check=0)["verdict"] == "IDENTICAL"


# --- the schema ------------------------------------------------------------------------------------------------------


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
TYPES["boolean"] = bool
#: The part of JSON Schema that ours uses.
KEYWORDS = frozenset(
    "$schema $ref $defs title description default type properties required enum additionalProperties anyOf oneOf not"
    " items minimum minLength".split()
)


def fits(value: Any, schema: Any, root: Any) -> bool:
    """Say whether a value fulfils a schema, by the part of JSON Schema that ours uses."""
    assert set(schema) <= KEYWORDS, set(schema) - KEYWORDS
    checks = [_is_of(value, schema["type"]) if "type" in schema else True]
    if not all(checks):
        return False
    if "$ref" in schema:
        checks.append(fits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root))
    checks.append("anyOf" not in schema or any(fits(value, item, root) for item in schema["anyOf"]))
    checks.append("oneOf" not in schema or sum(fits(value, item, root) for item in schema["oneOf"]) == 1)
    checks.append("not" not in schema or not fits(value, schema["not"], root))
    checks.append("enum" not in schema or value in schema["enum"])
    checks.append("minimum" not in schema or value >= schema["minimum"])
    checks.append("minLength" not in schema or len(value) >= schema["minLength"])
    checks += [name in value for name in schema.get("required", []) if isinstance(value, dict)]
    return all(checks) and (not isinstance(value, dict) or _members_fit(value, schema, root))


def _is_of(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and not (isinstance(value, bool) and kind in ("integer", "number"))


def _members_fit(value: dict[str, Any], schema: Any, root: Any) -> bool:
    more = schema.get("additionalProperties", True)
    inner = {name: schema.get("properties", {}).get(name, more) for name in value}
    return all(inner[name] is True or (inner[name] and fits(value[name], inner[name], root)) for name in value)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `repro schema` prints."""
    done = Project(tmp_path_factory.mktemp("schema")).repro("schema", check=0)
    return json.loads(done.out)


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/experiment.yaml")), ids=lambda path: path.parent.name)
def test_the_schema_accepts_the_experiments_of_this_repository(schema: Any, path: Path) -> None:
    """`repro schema` is a JSON Schema (draft 2020-12) that each experiment here fulfils, and so does its reader."""
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert fits(yaml12.read(path).value, schema, schema)
    assert config.load(path).file.name


#: Mistakes of structure: those that a schema can tell.
STRUCTURE = ("unknown key", "unknown direction", "unknown profile", "unknown comparison", "text for", "a list", "text")
STRUCTURE += (
    "a mapping for",
    "a fraction",
    "too few",
    "a negative",
    "a number for",
    "an empty",
    "no name",
    "entry and",
)
STRUCTURE += ("neither", "empty")


@pytest.mark.parametrize("what", [what for what in BAD if what.startswith(STRUCTURE)])
def test_the_schema_refuses_what_the_reader_refuses(schema: Any, what: str) -> None:
    """An editor that knows the schema marks every mistake of structure that the reader would."""
    assert not fits(yaml12.parse(BAD[what][0], "x").value, schema, schema)


def test_a_secret_is_no_parameter(project: Project) -> None:
    """A value under a name like api_key would lie in every record: it is refused, whether in the file or by --set."""
    project.write("train.py", "def train(run): pass")
    project.write("experiment.yaml", "name: x\nentry: train.py:train\nparams: {api_key: '', lr: 0.1}\n")
    done = project.repro("run", "experiment.yaml", "--set", "api_key=abcdefgh", check=2)
    assert "params.api_key: a secret must not be a parameter" in done.err
    assert "abcdefgh" not in done.err
    assert not list(project.store.glob("runs/*"))
