# What `nm -D` shows of the plug-in: ncclNetPlugin_v6 to _v12, and nothing else that may meet another
# copy of it in the same process.
cmake_minimum_required(VERSION 3.22)
execute_process(COMMAND ${NM} -D --defined-only ${PLUGIN} OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^ \n]+\n" names "${text}")
list(TRANSFORM names STRIP)
list(SORT names COMPARE NATURAL)
set(expected "")
foreach(version RANGE 6 12)
  list(APPEND expected ncclNetPlugin_v${version})
endforeach()
if(NOT names STREQUAL expected)
  message(FATAL_ERROR "exported: ${names}\nexpected: ${expected}")
endif()
