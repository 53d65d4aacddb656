"""Run the operators' tests under AddressSanitizer and UndefinedBehaviorSanitizer.

python tests/cuda_host/sanitize.py [pytest arguments]: the CPU kernels of the baseline instruction set, and the CUDA
kernels on the host shim. The sanitizers' runtime must be in the process before Python, hence a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

from build import ROOT, build

TESTS = ["tests/ops", "tests/search/test_traverse.py", "tests/search/test_subset_sum.py"]
# Tests that compile with torch's own tool chain would only sanitize that.
LEAVE_OUT = "not compile and not export and not opcheck and not instruction"


def main(arguments: list[str]) -> int:
    build(sanitize=True)
    runtimes = [_runtime("libasan.so"), _runtime("libubsan.so")]
    environment = dict(
        os.environ,
        PYNAS_SANITIZE="1",
        LD_PRELOAD=" ".join(runtimes),
        ASAN_OPTIONS="detect_leaks=0",  # Python and torch keep what they allocate
        UBSAN_OPTIONS="print_stacktrace=1",
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:faulthandler", "-k", LEAVE_OUT, *TESTS, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def _runtime(name: str) -> str:
    command = [os.environ.get("CXX", "g++"), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
