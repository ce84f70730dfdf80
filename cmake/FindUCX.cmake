# Finds UCX >= 1.13: the system's, else the wheel libucx-cu13 of the Python that is on the path (or
# Python_EXECUTABLE). Headers of the oldest version are preferred: what they offer, every one has.
#
#   UCX_INCLUDE_DIR      headers to build against
#   UCX_LIBRARIES        libucp and libucs of the same place; at run time any of 1.13 and newer serves
#   UCX_SYSTEM_DIR       directory of the system's libucp.so.0, if any (tests run over both)
#   UCX_WHEEL_DIR        that of the wheel, if any

find_library(UCX_SYSTEM_UCP NAMES libucp.so.0 ucp)
find_path(UCX_SYSTEM_INCLUDE ucp/api/ucp.h)
mark_as_advanced(UCX_SYSTEM_UCP UCX_SYSTEM_INCLUDE)
set(UCX_SYSTEM_DIR "" CACHE INTERNAL "")
if(UCX_SYSTEM_UCP)
  get_filename_component(directory ${UCX_SYSTEM_UCP} DIRECTORY)
  set(UCX_SYSTEM_DIR ${directory} CACHE INTERNAL "")
endif()

if(NOT DEFINED UCX_WHEEL_ROOT)
  if(Python_EXECUTABLE)
    set(python ${Python_EXECUTABLE})
  elseif(EXISTS ${PROJECT_SOURCE_DIR}/.venv/bin/python)
    set(python ${PROJECT_SOURCE_DIR}/.venv/bin/python)
  else()
    find_program(python NAMES python3 python)
  endif()
  set(root "")
  if(python)
    execute_process(
      COMMAND ${python} -c "import importlib.util as u, os; s = u.find_spec('libucx'); print(os.path.dirname(s.origin) if s and s.origin else (list(s.submodule_search_locations)[0] if s else ''))"
      OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(UCX_WHEEL_ROOT "${root}" CACHE PATH "Where the Python package libucx lies")
endif()
set(UCX_WHEEL_DIR "" CACHE INTERNAL "")
if(UCX_WHEEL_ROOT AND EXISTS ${UCX_WHEEL_ROOT}/lib/libucp.so.0)
  set(UCX_WHEEL_DIR ${UCX_WHEEL_ROOT}/lib CACHE INTERNAL "")
endif()

set(UCX_VERSION "")
unset(UCX_INCLUDE_DIR)
foreach(place "${UCX_SYSTEM_INCLUDE}|${UCX_SYSTEM_DIR}" "${UCX_WHEEL_ROOT}/include|${UCX_WHEEL_DIR}")
  string(REPLACE "|" ";" pair "${place}")
  list(GET pair 0 include)
  list(GET pair 1 libraries)
  if(NOT UCX_INCLUDE_DIR AND libraries AND EXISTS ${include}/ucp/api/ucp_version.h)
    file(STRINGS ${include}/ucp/api/ucp_version.h lines REGEX "define UCP_API_M(AJOR|INOR)")
    string(REGEX REPLACE ".*MAJOR +([0-9]+).*MINOR +([0-9]+).*" "\\1.\\2" version "${lines}")
    if(version VERSION_GREATER_EQUAL 1.13)
      set(UCX_VERSION ${version})
      set(UCX_INCLUDE_DIR ${include})
      set(UCX_LIBRARIES ${libraries}/libucp.so.0 ${libraries}/libucs.so.0)
    endif()
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(UCX REQUIRED_VARS UCX_INCLUDE_DIR UCX_LIBRARIES
                                  VERSION_VAR UCX_VERSION)
