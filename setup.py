"""Build the native core with CMake. The rest of the project's description is in pyproject.toml.

Environment: PYNAS_CUDA=0|1 (default: build the CUDA half where nvcc is found), PYNAS_CUDA_ARCHS="80;90",
CMAKE_ARGS (extra arguments, separated by spaces), CMAKE_BUILD_PARALLEL_LEVEL.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configure and build csrc/ and put `_C` where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPYNAS_EXTENSION_NAME={target.name}",
            f"-DPYNAS_CUDA={os.environ.get('PYNAS_CUDA', 'AUTO')}",
            f"-DPYNAS_CUDA_ARCHS={os.environ.get('PYNAS_CUDA_ARCHS', '80;90')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)


setup(ext_modules=[Extension("pynas._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
