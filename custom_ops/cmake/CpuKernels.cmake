# src/cpu/kernels.cc is compiled once per instruction set; the best one that the processor has is chosen at run time.
add_library(gn_cpu STATIC src/cpu/group_norm_cpu.cc)
target_include_directories(gn_cpu PUBLIC include PRIVATE src)
target_link_libraries(gn_cpu PRIVATE gn_warnings)

option(GN_ONNX_BASELINE_ONLY "only the kernels that every processor runs" OFF)

function(gn_add_isa isa)
  add_library(gn_cpu_${isa} OBJECT src/cpu/kernels.cc)
  target_include_directories(gn_cpu_${isa} PRIVATE include src)
  target_link_libraries(gn_cpu_${isa} PRIVATE gn_warnings)
  target_compile_definitions(gn_cpu_${isa} PRIVATE GN_ISA=${isa})
  # Vectors wider than the ABI's are passed between inlined functions only; sqrt needs no errno.
  target_compile_options(gn_cpu_${isa} PRIVATE
    $<$<NOT:$<CONFIG:Debug>>:-O3> -ffp-contract=fast -Wno-psabi -fno-math-errno -fno-trapping-math ${ARGN})
  target_sources(gn_cpu PRIVATE $<TARGET_OBJECTS:gn_cpu_${isa}>)
endfunction()

gn_add_isa(baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$" AND NOT GN_ONNX_BASELINE_ONLY)
  gn_add_isa(avx2 -mavx2 -mfma -mf16c)
  gn_add_isa(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c)
  target_compile_definitions(gn_cpu PRIVATE GN_X86_KERNELS)
endif()
