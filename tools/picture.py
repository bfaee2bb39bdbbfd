"""Makes docs/demo.svg from what `revo demo` really prints. Run it after the demo's output has changed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100
TARGET = Path(__file__).parents[1] / "docs" / "demo.svg"


def main() -> int:
    """Perform the demo and draw its output."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    command = [str(Path(sys.executable).with_name("revo")), "demo"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text("$ make demo", style="bold"))
    console.print(Text.from_ansi(done.stdout))
    console.save_svg(str(TARGET), title="make demo", unique_id="revo-demo")
    text = TARGET.read_text(encoding="utf-8")
    # The fonts that rich would fetch from the network; every terminal font will do.
    head, _, rest = text.partition("@font-face")
    while rest:
        rest = rest.partition("}")[2]
        before, _, rest = rest.partition("@font-face") if "@font-face" in rest else (rest, "", "")
        head += before
    TARGET.write_text(head, encoding="utf-8")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
