"""Build the native core with CMake. The rest of the project's description is in pyproject.toml.

Environment: PYNAS_CUDA=0|1 (default: build the CUDA half where nvcc is found), PYNAS_CUDA_ARCHS="80;90",
CMAKE_ARGS (extra arguments, separated by spaces), CMAKE_BUILD_PARALLEL_LEVEL.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class FreshModules(build_py):
    """Copy the Python files into an empty folder: a wheel holds no modules that an earlier version left in build/lib."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "pynas", ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    """Configure and build csrc/ and put `_C` where setuptools wants it.

    All installs of a checkout share one build folder, so that only what changed is compiled again. Each one names its own
    ninja and pybind11, since those of an isolated build environment are gone when it ends. A cache that CMake refuses (the
    checkout moved, a compiler is gone, a configuration was cut short) is thrown away.
    """

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_type = "Debug" if self.debug else "Release"
        build = ROOT / "build" / f"cmake-{sysconfig.get_config_var('SOABI')}-{build_type.lower()}"
        ninja = shutil.which("ninja")
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            *([] if ninja is None else [f"-DCMAKE_MAKE_PROGRAM={ninja}"]),
            f"-DCMAKE_BUILD_TYPE={build_type}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPYNAS_EXTENSION_NAME={target.name}",
            f"-DPYNAS_CUDA={os.environ.get('PYNAS_CUDA', 'AUTO')}",
            f"-DPYNAS_CUDA_ARCHS={os.environ.get('PYNAS_CUDA_ARCHS', '80;90')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        known = (build / "CMakeCache.txt").exists()
        if subprocess.run(configure, check=not known).returncode != 0:
            subprocess.run([*configure, "--fresh"], check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)


setup(ext_modules=[Extension("pynas._C", sources=[])], cmdclass={"build_py": FreshModules, "build_ext": CMakeBuild})
