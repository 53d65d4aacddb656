"""Every kernel once, beside its reference: at odd, half-typed and (--large) more than 2**31 elements. For compute-sanitizer.

    compute-sanitizer --tool memcheck --kernel-name kernel_substring=pynas python -m bench.check_kernels [--large]

Few launches, so that a sanitizer, which slows each one down many times, ends within minutes.
"""

from __future__ import annotations

import time

import torch

from bench._command import command_line, device, run
from bench._large_checks import large
from bench._small_checks import small


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--large", action="store_true", help="more elements than 32 bits count")
    parser.add_argument("--elements", type=int, default=2**31, help="of --large: more than so many")
    options = parser.parse_args()
    checks = list(large(options.device, options.elements) if options.large else small(options.device))
    wrong = 0
    for name, check in checks:
        torch.manual_seed(0)
        start, on_gpu = time.perf_counter(), options.device.startswith("cuda")
        try:
            check()
            if on_gpu:
                torch.cuda.synchronize()  # what a kernel did wrong is raised here
            said = "agrees"
        except Exception as error:  # the others are checked all the same
            wrong += 1
            said = f"FAILED: {type(error).__name__}: {str(error).strip()[:500]}"
        if on_gpu and options.large:
            most, left = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.memory_allocated() / 2**30
            said += f", at most {most:.1f} GiB, {left:.1f} GiB left"
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if options.large or said != "agrees":
            print(f"{name}: {said}, {time.perf_counter() - start:.1f} s", flush=True)
    print(f"{len(checks) - wrong} of {len(checks)} agree")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    run(main)
