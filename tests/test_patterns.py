"""Metrics out of a command's output: which number, and under which name."""

import math

import pytest
from conftest import Project

from repro.errors import ConfigError
from repro.run import patterns

README = "loss=([0-9.]+)"


def values(expression: str, line: str) -> list[float | None]:
    """Return the numbers of a line as the pattern reads them."""
    return [number.value for number in patterns.compile_pattern("x", expression).numbers(line)]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("loss=0.5", 0.5),
        ("loss=6.05e-06", 6.05e-06),
        ("loss=7.5e83", 7.5e83),
        ("loss=3.2E+10)", 3.2e10),
        ("loss=-0.5", -0.5),
        ("loss=−0.5", -0.5),  # noqa: RUF001  (a minus, U+2212)
        ("loss=+3", 3),
        ("loss=.5", 0.5),
        ("loss=5.", 5),
        ("loss=0.5.", 0.5),
        ("loss=1,234.5", 1234.5),
        ("loss=1_000", 1000),
        ("loss=12.5%", 12.5),
        ("loss=0.5,acc=2", 0.5),
        ("loss=0.25-0.5", 0.25),
        ("loss=0.5s", 0.5),
        ("loss=inf", math.inf),
        ("loss=-Infinity", -math.inf),
        ("loss=\x1b[32m0.25\x1b[0m", 0.25),
    ],
)
@pytest.mark.parametrize("expression", [README, r"loss=(\d+)", r"loss=-?(\d\.\d)", r"loss=(\S+)", "loss"])
def test_the_whole_number_is_read(line: str, value: float, expression: str) -> None:
    """Whatever characters the group allows: sign, exponent, separators and words for infinity belong to the number."""
    assert values(expression, line) == [value]


@pytest.mark.parametrize("line", ["loss=nan", "loss=NaN", "loss=-nan"])
def test_nan_is_a_number(line: str) -> None:
    """A run that ends in NaN has NaN as its last value, not the last finite one."""
    found = values(README, line)
    assert len(found) == 1
    assert math.isnan(found[0] or 0)


@pytest.mark.parametrize(
    "line",
    ["loss=0x1F", "loss=3,5", "loss=0,123", "loss=1.2k", "loss=1.5D-03", "loss=0.1.2", "loss=2+3j", "loss=1.5 x 10^-3"],
)
def test_a_number_that_goes_on_otherwise_is_refused(line: str) -> None:
    """Where a part would be taken for the whole, there is no value."""
    assert values(README, line) == [None]
    assert values("loss", line) == [None]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("loss: 0.5", 0.5),
        ("step 3  loss   0.5 (0.6)", 0.5),
        ('{"val_loss": 2, "loss": 0.5}', 0.5),
        ("'loss': tensor(0.5, grad_fn=<X>)", 0.5),
        ("loss = np.float64(1e-3)", 1e-3),
        ("loss->0.5", 0.5),
    ],
)
def test_a_word_finds_its_number(line: str, value: float) -> None:
    """``--metric loss`` reads the usual ways of printing a value under a name."""
    assert values("loss", line) == [value]


@pytest.mark.parametrize(
    "line", ["val_loss=0.5", "train/loss 0.5", "losses 3", "loss function 3", "loss=None", "xloss=1"]
)
def test_a_word_leaves_others_alone(line: str) -> None:
    """Another metric whose name has the word in it is not this one."""
    assert values("loss", line) == []


@pytest.mark.parametrize(
    ("text", "name", "expression"),
    [
        ("loss", "loss", "loss"),
        ("l=loss", "l", "loss"),
        (README, "loss", README),
        (r"Epoch \d+ loss=([0-9.]+)", "loss", r"Epoch \d+ loss=([0-9.]+)"),
        (r"Epoch=\d+ loss=([0-9.]+)", "loss", r"Epoch=\d+ loss=([0-9.]+)"),
        (r"\bloss=([0-9.]+)", "loss", r"\bloss=([0-9.]+)"),
        (r"(?i)loss=([0-9.]+)", "loss", r"(?i)loss=([0-9.]+)"),
        (r"^\s*loss\s*[:=]\s*([0-9.]+)", "loss", r"^\s*loss\s*[:=]\s*([0-9.]+)"),
        (r"loss=\s*([0-9.]+)", "loss", r"loss=\s*([0-9.]+)"),
        (r"acc=\[([0-9.]+)\]", "acc", r"acc=\[([0-9.]+)\]"),
        (r'"val/acc": ([0-9.]+)', "val/acc", r'"val/acc": ([0-9.]+)'),
        (r"(?P<m>[0-9.]+) loss", "m", r"(?P<m>[0-9.]+) loss"),
        (r"train=Train loss: ([0-9.]+)", "train", r"Train loss: ([0-9.]+)"),
        (r"loss=[Ll]oss=([0-9.]+)", "loss", r"[Ll]oss=([0-9.]+)"),
    ],
)
def test_names(text: str, name: str, expression: str) -> None:
    """A name is given, or is the identifier directly before the group."""
    assert patterns.parse([text]) == {name: expression}


@pytest.mark.parametrize(
    "text",
    ["[Ll]oss=([0-9.]+)", "losses?=([0-9.]+)", "(?:loss|acc)=([0-9.]+)", "([0-9.]+)", r"loss \(mean\): ([0-9.]+)"],
)
def test_an_unclear_name_is_refused(text: str) -> None:
    """Where the expression has a name only in part, the message shows the form that works."""
    with pytest.raises(ConfigError, match="what the metric is called is not clear") as error:
        patterns.parse([text])
    assert "NAME=REGEX" in (error.value.hint or "")
    assert patterns.parse([f"m=x: {text}"]) == {"m": f"x: {text}"}


def test_what_was_never_seen_is_said(project: Project) -> None:
    """At the end of a run: the metric without a number with its nearest line, and the number that was left out."""
    project.write("a.py", "print('Acc: 0.5'); print('accuracy soon'); print('loss=0x1F'); print('lr=1e-4')")
    words = ("--metric", "acc=([0-9.]+)", "--metric", "loss", "--metric", "f1", "--metric", "lr=([0-9.]+)")
    done = project.run(*words, "--", "python", "a.py")
    assert done["metrics"] == {"lr": 1e-4}
    assert done["notes"] == [
        "metric loss: '0x1F' is not a number that can be read in one way (1 left out)",
        "metric acc was never seen in the output; the nearest line: 'Acc: 0.5'",
        "metric f1 was never seen in the output: no line has 'f1' in it",
    ]
