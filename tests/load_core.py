"""Load the compiled core of an installed pynas, or the file that is named, without torch; a script, not a test."""

import importlib.util
import sys
import sysconfig
from pathlib import Path

paths = [Path(sys.argv[1])] if sys.argv[1:] else list(Path(sysconfig.get_path("platlib"), "pynas").glob("_C*"))
spec = importlib.util.spec_from_file_location("_C", next(path for path in paths if path.suffix in (".so", ".pyd")))
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
assert "torch" not in sys.modules
print(core.isa())
