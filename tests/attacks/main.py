"""`make attacks`: tries every attack and prints one table; JSON beside it.

Rules: naming themes tries those. Exit code 0 when every attack was refused as it should be, and every control accepted.

What this module does not do: it attacks nothing itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from attacks import everything
from attacks.attack import Row, keep, show, tried
from attacks.scene import Scene

BUILD = Path(__file__).parents[2] / "build"


def main() -> int:
    """Run; the exit code."""
    themes = list(dict.fromkeys(each.theme for each in everything.ATTACKS))
    parser = argparse.ArgumentParser(prog="make attacks", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=BUILD, metavar="DIR", help="for the table and the JSON")
    parser.add_argument("themes", nargs="*", choices=[[], *themes], metavar="THEME", help=f"of {', '.join(themes)}")
    arguments = parser.parse_args()
    wanted = [each for each in everything.ATTACKS if each.theme in (arguments.themes or themes)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="attacks-") as directory, Scene(Path(directory)) as scene:
        for each in wanted:
            sys.stderr.write(f"attacks: {each.theme}: {each.sentence} ...\n")
            rows.append(tried(each, scene))
    table = f"{show(rows)}\n"
    keep(rows, arguments.out / "attacks.json")
    (arguments.out / "attacks.txt").write_text(table, "utf-8")
    sys.stdout.write(table)
    return 0 if rows and all(row.is_ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
