// Errors that cross into Python: pybind11 turns std::invalid_argument into ValueError, std::runtime_error into RuntimeError.
#pragma once

#include <stdexcept>
#include <string>

namespace pynas {

[[noreturn]] inline void no_cuda(const char* kernel) {
  throw std::runtime_error(std::string("[") + kernel +
                           "] this build of pynas has no CUDA kernels; rebuild where nvcc is on PATH, or move the "
                           "tensors to the CPU");
}

}  // namespace pynas
