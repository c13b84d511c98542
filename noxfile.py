"""The version matrix: the suite on each pair of Python and torch that is promised.

`make matrix` (or `nox`) runs the pairs whose interpreter is found here, and
`nox -s "tests(3.11-torch-2.13)"` one of them; words after `--` go to pytest.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

# The oldest torch of the oldest Python, the newest of the newest, and what lies between.
PAIRS = [("3.10", "2.4"), ("3.11", "2.6"), ("3.11", "2.13"), ("3.12", "2.9"), ("3.13", "2.14")]


@nox.session
@nox.parametrize(
    ("python", "torch"), PAIRS, ids=[f"{python}-torch-{torch}" for python, torch in PAIRS]
)
def tests(session: nox.Session, torch: str) -> None:
    """The whole suite, or the files given after `--`."""
    pins = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    others = Path(session.create_tmp()) / "constraints.txt"
    others.write_text("\n".join(pin for pin in pins if not pin.startswith("torch==")))
    session.install(f"torch=={torch}.*")
    session.install("--constraint", str(others), "--editable", ".[dev]")
    session.run(
        *("python", "-m", "pytest", "-n", "auto", *session.posargs), env={"OMP_NUM_THREADS": "1"}
    )
