"""Where a run's processes find their Python, when that is not the user's current environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.capture import interpreter
from repro.capture.interpreter import Interpreter
from repro.capture.packages import Environment


@dataclass(frozen=True)
class Elsewhere:
    """An environment other than the current one: its Python, its programs, and what the record says of it.

    One that this machine's files do not show (an image) has told its ``python`` and what is ``installed``.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    prefix: str | None = None
    python: Interpreter | None = None
    installed: Environment | None = None

    def variables(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return variables with this environment's programs in front."""
        if self.prefix is None:
            return dict(env)
        return {**env, "PATH": os.pathsep.join([f"{self.prefix}/bin", env.get("PATH", os.defpath)])}

    def unseen(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return variables without what `variables` added to them."""
        path = env.get("PATH", "")
        return {**env, "PATH": path.removeprefix(f"{self.prefix}/bin{os.pathsep}")} if path else dict(env)

    def program(self, word: str, cwd: Path) -> str:
        """Return what stands here for the program of a command: a Python, or a script of an environment, is ours."""
        if self.prefix is None or os.sep not in word:
            return word  # PATH leads to it
        name, folder = os.path.basename(word), os.path.dirname(word)
        is_here = self.python is not None or os.path.exists(f"{self.prefix}/bin/{name}")
        if interpreter.is_python(word):
            return f"{self.prefix}/bin/{name if is_here else 'python'}"
        is_script = os.path.exists(os.path.join(cwd, folder, "..", "pyvenv.cfg"))
        return f"{self.prefix}/bin/{name}" if is_script and is_here else word
