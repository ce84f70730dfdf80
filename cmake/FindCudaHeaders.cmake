# cuda.h of CUDA 12.0 or newer: all that the host's part of csrc/cuda needs. Nothing is linked, the driver is
# found at run time. Sets CUDA_HEADERS_VERSION ("13.0") and CUDA_HEADERS_INCLUDE_DIR, to be changed by
# -DCUDA_HEADERS_INCLUDE_DIR=.

find_package(CUDAToolkit QUIET)
find_path(CUDA_HEADERS_INCLUDE_DIR cuda.h HINTS ${CUDAToolkit_INCLUDE_DIRS}
          PATHS /usr/local/cuda/include /opt/cuda/include)
set(CUDA_HEADERS_VERSION "")
if(EXISTS "${CUDA_HEADERS_INCLUDE_DIR}/cuda.h")
  file(STRINGS ${CUDA_HEADERS_INCLUDE_DIR}/cuda.h line REGEX "#define CUDA_VERSION [0-9]+")
  if(line MATCHES "CUDA_VERSION ([0-9]+)([0-9][0-9])[0-9]")
    math(EXPR minor "${CMAKE_MATCH_2}")
    set(CUDA_HEADERS_VERSION ${CMAKE_MATCH_1}.${minor})
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CudaHeaders REQUIRED_VARS CUDA_HEADERS_INCLUDE_DIR
                                  VERSION_VAR CUDA_HEADERS_VERSION)
