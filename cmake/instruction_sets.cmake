# csrc/cpu/<stem>.cpp is compiled once per instruction set, into the namespace pynas::<set>, and csrc/common/isa.h selects
# one at run time. Such a source must not instantiate templates of the standard library that may not be inlined
# (std::vector, std::sort): the linker would keep one copy for all sets, perhaps that for AVX-512.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(PYNAS_ISAS baseline avx2 avx512)
  set(PYNAS_X86 1)
else()
  set(PYNAS_ISAS baseline)
  set(PYNAS_X86 0)
endif()
set(PYNAS_FLAGS_baseline "")
set(PYNAS_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(PYNAS_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512)

function(pynas_add_cpu_kernels target sources)
  foreach(isa IN LISTS PYNAS_ISAS)
    add_library(cpu_${isa} OBJECT ${sources})
    target_include_directories(cpu_${isa} PRIVATE csrc)
    target_compile_definitions(cpu_${isa} PRIVATE PYNAS_ISA=${isa} PYNAS_X86=${PYNAS_X86})
    target_compile_options(cpu_${isa} PRIVATE ${PYNAS_FLAGS_${isa}} -O3 -fno-math-errno -fno-trapping-math
                                              -fopenmp-simd -Wall -Wextra)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:cpu_${isa}>)
  endforeach()
  # Public: whoever includes common/isa.h chooses among the sets.
  target_compile_definitions(${target} PUBLIC PYNAS_X86=${PYNAS_X86})
endfunction()
