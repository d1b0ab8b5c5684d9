"""What each page of the busiest customer costs on a long history: queries, milliseconds, scans of large tables.

    .venv/bin/python benchmarks/pages.py [--usage 10000000] [--plans]

The history is generated into a PostgreSQL of its own, which is gone afterwards; `pages_once.py` measures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from check_books import generate, place, servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--usage", type=int, default=10_000_000, help="calls of the history (%(default)s)")
    parser.add_argument("--accounts", type=int, default=100_000, help="customers (%(default)s)")
    parser.add_argument("--plans", action="store_true", help="print the plan of each query")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL's account passes through when we are root.
        with servers.postgres(Path(folder) / "postgres") as server:
            environment = place(server.url, "pages")
            generate(environment, usage=asked.usage, accounts=asked.accounts)
            command = [sys.executable, str(Path(__file__).with_name("pages_once.py")), *["--plans"] * asked.plans]
            subprocess.run(command, env=environment, check=True)
        server.remove()


if __name__ == "__main__":
    main()
