"""Every module imports where the Python of another system lacks what this one has."""

import subprocess
import sys

# Modules and functions of the standard library that Windows does not have.
IMPORT_ALL = """
import importlib, os, pkgutil, sys
import psutil, torch, torchvision, timm, matplotlib.pyplot, typer, scipy.stats, sklearn.datasets  # may use what they like
for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("fork", "geteuid", "getuid", "killpg", "statvfs", "sysconf", "uname"):
    delattr(os, name)
import pynas
for module in pkgutil.walk_packages(pynas.__path__, "pynas."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_modules_import_without_what_windows_lacks():
    subprocess.run([sys.executable, "-c", IMPORT_ALL], check=True, timeout=300)
