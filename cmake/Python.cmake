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
  message(FATAL_ERROR "SHOAL_PYTHON=ON needs pybind11 >= 3.0 for ${Python_EXECUTABLE}: "
                      "run `${Python_EXECUTABLE} -m pip install 'pybind11>=3,<4'`, or set pybind11_DIR")
endif()
