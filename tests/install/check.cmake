# Installs the build below WORK_DIR, moves the prefix (a package must not remember where it was made),
# then builds and runs the consumer by both ways of finding the library. Any failure ends the script.
cmake_minimum_required(VERSION 3.22)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    string(REPLACE ";" " " command "${ARGV}")
    message(FATAL_ERROR "failed (${status}): ${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# The prefix is no system folder: the loader is told, as a user would.
function(expect_consumer_runs program)
  run(${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${WORK_DIR}/prefix/${LIBDIR} ${program})
  if(NOT output MATCHES "consumer: ok")
    message(FATAL_ERROR "${program} printed:\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/staged)
file(RENAME ${WORK_DIR}/staged ${WORK_DIR}/prefix)

foreach(library libshoal.so libshoal_ucx.so libshoal_cuda.so libnccl-net-shoal.so)
  if(EXISTS ${WORK_DIR}/prefix/${LIBDIR}/${library})
    file(STRINGS ${WORK_DIR}/prefix/${LIBDIR}/${library} text)
    string(FIND "${text}" "${SOURCE_DIR}" found)
    if(NOT found EQUAL -1)
      message(FATAL_ERROR "${library} names ${SOURCE_DIR}, where it was built")
    endif()
  endif()
endforeach()

run(${CMAKE_COMMAND} -S ${CONSUMER_DIR} -B ${WORK_DIR}/by-cmake -G ${GENERATOR}
  -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix -DCMAKE_CXX_COMPILER=${CXX})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/by-cmake)
expect_consumer_runs(${WORK_DIR}/by-cmake/consumer)

# Every public header is readable alone.
file(GLOB_RECURSE headers ${WORK_DIR}/prefix/include/shoal/*.h)
foreach(header ${headers})
  run(${CXX} -std=c++20 -Wall -Wextra -Werror -fsyntax-only -I${WORK_DIR}/prefix/include -x c++ ${header})
endforeach()

find_program(PKG_CONFIG NAMES pkg-config pkgconf)
if(NOT PKG_CONFIG)
  message(FATAL_ERROR "pkg-config is missing: apt-get install pkg-config")
endif()
set(ENV{PKG_CONFIG_PATH} ${WORK_DIR}/prefix/${LIBDIR}/pkgconfig)
run(${PKG_CONFIG} --cflags --libs shoal)
separate_arguments(flags UNIX_COMMAND "${output}")
run(${CXX} -std=c++20 ${CONSUMER_DIR}/consumer.cc -o ${WORK_DIR}/by-pkg-config ${flags})
expect_consumer_runs(${WORK_DIR}/by-pkg-config)
