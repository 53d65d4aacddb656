#include "common/isa.h"

#include <cstdlib>
#include <string>

namespace pynas {
namespace {

Isa detect() {
  Isa best = Isa::baseline;
#if PYNAS_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    best = Isa::avx512;
  }
#endif
  const char* requested = std::getenv("PYNAS_ISA");
  if (requested != nullptr) {
    const std::string name(requested);
    if (name == "baseline") best = Isa::baseline;
    if (name == "avx2" && best == Isa::avx512) best = Isa::avx2;
  }
  return best;
}

}  // namespace

Isa isa() {
  static const Isa chosen = detect();
  return chosen;
}

const char* isa_name() {
  switch (isa()) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "baseline";
  }
}

}  // namespace pynas
