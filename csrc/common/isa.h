// Run-time choice between the instruction sets that csrc/cpu was built for.
//
// PYNAS_CPU_KERNEL(f, Args) declares void f(const Args&) once per instruction set, and pynas::cpu::f, which calls the
// widest one that this processor has. Kernel sources define it inside `namespace pynas::PYNAS_ISA`.
#pragma once

namespace pynas {

enum class Isa { baseline, avx2, avx512 };

// The widest set that the processor has, unless PYNAS_ISA=baseline|avx2|avx512 in the environment asks for less.
Isa isa();
const char* isa_name();

}  // namespace pynas

#if PYNAS_X86
#define PYNAS_CPU_KERNEL(f, Args)                                   \
  namespace pynas::baseline { void f(const Args&); }                \
  namespace pynas::avx2 { void f(const Args&); }                    \
  namespace pynas::avx512 { void f(const Args&); }                  \
  namespace pynas::cpu {                                            \
  inline void f(const Args& args) {                                 \
    switch (isa()) {                                                \
      case Isa::avx512: return ::pynas::avx512::f(args);            \
      case Isa::avx2: return ::pynas::avx2::f(args);                \
      default: return ::pynas::baseline::f(args);                   \
    }                                                               \
  }                                                                 \
  }
#else
#define PYNAS_CPU_KERNEL(f, Args)                                   \
  namespace pynas::baseline { void f(const Args&); }                \
  namespace pynas::cpu {                                            \
  inline void f(const Args& args) { ::pynas::baseline::f(args); }   \
  }
#endif
