# The interpreter that the extension is built for, and pybind11. A wheel's pybind11 lies inside
# site-packages, where CMake does not look: the interpreter says where.

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
if(NOT pybind11_DIR)
  execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
                  OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE
                  RESULT_VARIABLE status ERROR_QUIET)
  if(status EQUAL 0)
    set(pybind11_DIR ${found} CACHE PATH "pybind11's CMake package" FORCE)
  endif()
endif()
find_package(pybind11 3.0 CONFIG)
if(NOT pybind11_FOUND)
  # torch carries the headers: enough where there is no package index (scripts/gpu.sh).
  execute_process(COMMAND ${Python_EXECUTABLE} -c
                          "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
                  OUTPUT_VARIABLE torch_directory OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  find_path(SHOAL_PYBIND11_HEADERS pybind11/pybind11.h HINTS ${torch_directory}/include NO_DEFAULT_PATH)
  if(NOT SHOAL_PYBIND11_HEADERS)
    message(FATAL_ERROR "SHOAL_PYTHON=ON needs pybind11 >= 3.0 for ${Python_EXECUTABLE}: "
                        "run `${Python_EXECUTABLE} -m pip install 'pybind11>=3,<4'`, or set pybind11_DIR")
  endif()
  message(STATUS "pybind11: torch's headers in ${SHOAL_PYBIND11_HEADERS}")
  function(pybind11_add_module name)
    cmake_parse_arguments(ARG "MODULE;NO_EXTRAS" "" "" ${ARGN})
    Python_add_library(${name} MODULE WITH_SOABI ${ARG_UNPARSED_ARGUMENTS})
    target_include_directories(${name} SYSTEM PRIVATE ${SHOAL_PYBIND11_HEADERS})
    target_link_libraries(${name} PRIVATE Threads::Threads)
  endfunction()
endif()
