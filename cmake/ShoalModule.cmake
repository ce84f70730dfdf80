# One module is one folder of csrc/, one static library, and one include directory that holds links to
# its own headers only: a module sees the headers of what it names in DEPS, so an upward include does
# not compile.

find_package(Threads REQUIRED)

add_library(shoal_options INTERFACE)
target_compile_options(shoal_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers)
# No path of the building machine in what is built: __FILE__ in an assertion begins at the tree's root.
target_compile_options(shoal_options INTERFACE
  -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/= -fmacro-prefix-map=${PROJECT_BINARY_DIR}/=)
target_link_libraries(shoal_options INTERFACE Threads::Threads)
if(SHOAL_SANITIZE)
  # A report needs line numbers and ends the test. With -O2 -g and checks that go on, g++ 12 takes five times
  # as long (two files of bootstrap/ under address,undefined: 19.6 s of CPU; so: 4.1 s).
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")
  target_compile_options(shoal_options INTERFACE -fsanitize=${SHOAL_SANITIZE} -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer)
  target_link_options(shoal_options INTERFACE -fsanitize=${SHOAL_SANITIZE})
endif()

# The words every layer speaks: of include/shoal/ the layers below comm/ see these only.
set(SHOAL_VOCABULARY ${CMAKE_BINARY_DIR}/modules/vocabulary)
file(MAKE_DIRECTORY ${SHOAL_VOCABULARY}/shoal)
foreach(item types.h error.h export.h abi)
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/include/shoal/${item} ${SHOAL_VOCABULARY}/shoal/${item} SYMBOLIC)
endforeach()
target_include_directories(shoal_options INTERFACE $<BUILD_INTERFACE:${SHOAL_VOCABULARY}>)

# shoal_target_name(out path): transport/shm -> shoal_transport_shm
function(shoal_target_name out path)
  string(REPLACE "/" "_" name ${path})
  set(${out} shoal_${name} PARENT_SCOPE)
endfunction()

# shoal_module(PATH [SOURCES ...] [DEPS module paths ...] [LIBS targets ...])
# Without SOURCES the module is header-only.
function(shoal_module path)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  shoal_target_name(target ${path})
  set(include_root ${CMAKE_BINARY_DIR}/modules/${target})
  file(MAKE_DIRECTORY ${include_root}/${path})
  file(GLOB headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/${path}/*.h)
  foreach(header ${headers})
    get_filename_component(name ${header} NAME)
    file(CREATE_LINK ${header} ${include_root}/${path}/${name} SYMBOLIC)
  endforeach()
  if(ARG_SOURCES)
    add_library(${target} STATIC ${ARG_SOURCES})
    set(scope PUBLIC)
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(${target} ${scope} ${include_root})
  target_link_libraries(${target} ${scope} shoal_options ${ARG_LIBS})
  foreach(dep ${ARG_DEPS})
    shoal_target_name(dep_target ${dep})
    target_link_libraries(${target} ${scope} ${dep_target})
  endforeach()
endfunction()

# shoal_test(NAME SOURCES ... DEPS module paths ... [LIBS ...] [TIMEOUT seconds]): one GoogleTest program,
# one ctest entry. The time limit is a failure, never a hang.
function(shoal_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LIBS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE GTest::gtest GTest::gtest_main ${ARG_LIBS})
  foreach(dep ${ARG_DEPS})
    shoal_target_name(dep_target ${dep})
    target_link_libraries(${name} PRIVATE ${dep_target})
  endforeach()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()
