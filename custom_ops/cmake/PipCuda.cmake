# Finds nvcc, in this order: CMAKE_CUDA_COMPILER or CUDACXX, CUDA_HOME or CUDA_PATH, the compiler wheels that the building
# Python sees (nvidia/cu13), then CMake's own search of PATH. Sets CMAKE_CUDA_COMPILER where it is one of the first three.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  foreach(gn_root "$ENV{CUDA_HOME}" "$ENV{CUDA_PATH}")
    if(gn_root AND NOT CMAKE_CUDA_COMPILER AND EXISTS "${gn_root}/bin/nvcc")
      set(CMAKE_CUDA_COMPILER "${gn_root}/bin/nvcc" CACHE FILEPATH "nvcc from the environment")
    endif()
  endforeach()
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_package(Python 3.11 COMPONENTS Interpreter)
  if(Python_FOUND)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c [[
import importlib.util, os
spec = importlib.util.find_spec("nvidia")
need = ("bin/nvcc", "nvvm/bin/cicc", "include/crt/host_config.h", "include/cuda_runtime.h", "lib/libcudart_static.a")
for base in (spec.submodule_search_locations if spec else ()):
    root = os.path.join(base, "cu13")
    if all(os.path.exists(os.path.join(root, name)) for name in need):
        print(root, end="")
        break
]]
      OUTPUT_VARIABLE gn_wheels OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(gn_wheels)
      set(CMAKE_CUDA_COMPILER "${gn_wheels}/bin/nvcc" CACHE FILEPATH "nvcc from the Python wheels")
      # The wheels have <root>/lib; the profile of nvcc 13.0 links from <root>/lib64.
      string(APPEND CMAKE_CUDA_FLAGS_INIT " -L${gn_wheels}/lib")
    endif()
  endif()
endif()
