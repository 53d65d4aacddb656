// Selects the instruction set of the CPU kernels at run time.
//
// PYNAS_CPU_KERNEL(f, Args) declares void f(const Args&) once per instruction set, and pynas::cpu::f, which calls the one
// for the widest set of this processor. csrc/cpu/f.cpp defines it in `namespace pynas::PYNAS_ISA`.
#pragma once

namespace pynas {

enum class Isa { baseline, avx2, avx512 };

// The widest set of this processor, or a narrower one that PYNAS_ISA=baseline|avx2|avx512 in the environment requests.
Isa isa();
const char* isa_name();

}  // namespace pynas

#ifndef PYNAS_X86
#error "define PYNAS_X86 as 1 or 0: without it, calls would silently take the baseline set"
#endif

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
