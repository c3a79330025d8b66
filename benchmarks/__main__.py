"""`python -m benchmarks COMMAND`: runs, tables and figures."""

from __future__ import annotations

import importlib
import sys

_COMMANDS = {
    "run": "train the experiments of a tier",
    "summarize": "tables and figures from the results",
    "functions": "the paper's deterministic functions",
    "overhead": "what selection costs",
    "memory": "what copies and states cost",
    "accelerator": "what training costs on an accelerator, in time and memory",
    "transferability": "what the transferability metrics foretell",
}


def main() -> None:
    """Hand the arguments on to a command."""
    if len(sys.argv) < 2 or sys.argv[1] not in _COMMANDS:
        lines = [f"  {name:16} {text}" for name, text in _COMMANDS.items()]
        raise SystemExit("\n".join(["usage: python -m benchmarks COMMAND [--help]", "", *lines]))
    importlib.import_module(f".{sys.argv[1]}", __package__).main(sys.argv[2:])


if __name__ == "__main__":
    main()
