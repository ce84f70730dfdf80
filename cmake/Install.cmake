# What is installed, in two forms of the same build:
#   cmake --install BUILD                     lib/libshoal.so, lib/libshoal_{ucx,cuda}.so,
#                                             lib/libnccl-net-shoal.so, include/shoal/,
#                                             find_package(shoal), pkg-config shoal, bin/shoal-tracer
#   cmake --install BUILD --component python  the binary part of the Python package, flat: _core and,
#                                             beside it, the libraries it loads ($ORIGIN), and include/
# `shoal_package` builds what the second one needs and nothing else.

if(NOT TARGET shoal)
  return()
endif()

# The soname names the minor version while the major is 0. The file has no longer name than that: a
# wheel cannot hold links, and would carry the library once for each name.
set_property(TARGET shoal PROPERTY VERSION)
set_target_properties(shoal PROPERTIES
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} INSTALL_RPATH "$ORIGIN")
target_compile_features(shoal INTERFACE cxx_std_20)  # what the public headers are written in
add_custom_target(shoal_package DEPENDS shoal)

install(TARGETS shoal EXPORT shoal
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS shoal
  LIBRARY DESTINATION . COMPONENT python NAMELINK_SKIP EXCLUDE_FROM_ALL)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/shoal DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/shoal DESTINATION include
  COMPONENT python EXCLUDE_FROM_ALL FILES_MATCHING PATTERN "*.h")

# shoal_ucx: loaded by libshoal.so when the first remote peer appears; found beside it.
# shoal_cuda_module: likewise, when CUDA memory is first asked for.
# shoal_nccl_plugin: loaded by NCCL, and has what it needs, but for shoal_ucx.
foreach(plugin shoal_ucx shoal_cuda_module shoal_nccl_plugin)
  if(TARGET ${plugin})
    add_dependencies(shoal_package ${plugin})
    install(TARGETS ${plugin} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
    install(TARGETS ${plugin} LIBRARY DESTINATION . COMPONENT python EXCLUDE_FROM_ALL)
  endif()
endforeach()

# NCCL's users load it by its name: in a folder of its own, where nothing finds it by chance.
if(TARGET shoal_nccl_drop_in)
  add_dependencies(shoal_package shoal_nccl_drop_in)
  install(TARGETS shoal_nccl_drop_in LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/shoal)
  install(TARGETS shoal_nccl_drop_in LIBRARY DESTINATION nccl COMPONENT python EXCLUDE_FROM_ALL)
endif()

if(TARGET shoal_python)
  set_target_properties(shoal_python PROPERTIES INSTALL_RPATH "$ORIGIN")
  add_dependencies(shoal_package shoal_python)
  install(TARGETS shoal_python LIBRARY DESTINATION . COMPONENT python EXCLUDE_FROM_ALL)
endif()

# shoal trace starts it where it is; without it, it sees less.
if(TARGET shoal_tracer)
  add_dependencies(shoal_package shoal_tracer)
  install(TARGETS shoal_tracer RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(TARGETS shoal_tracer RUNTIME DESTINATION bin COMPONENT python EXCLUDE_FROM_ALL)
endif()

# torch's backend, and its sources for who has another torch.
if(TARGET shoal_torch)
  add_dependencies(shoal_package shoal_torch)
  install(TARGETS shoal_torch LIBRARY DESTINATION torch COMPONENT python EXCLUDE_FROM_ALL)
  install(FILES ${CMAKE_BINARY_DIR}/csrc/torch/built_for.txt DESTINATION torch
    COMPONENT python EXCLUDE_FROM_ALL)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/csrc/torch/ DESTINATION torch/source
  COMPONENT python EXCLUDE_FROM_ALL FILES_MATCHING PATTERN "*.h" PATTERN "*.cc" PATTERN "CMakeLists.txt")

include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/shoal)
install(EXPORT shoal NAMESPACE shoal:: FILE shoalConfig.cmake DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/shoalConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/shoalConfigVersion.cmake DESTINATION ${package_dir})

file(RELATIVE_PATH SHOAL_PREFIX_FROM_PC "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(${PROJECT_SOURCE_DIR}/cmake/shoal.pc.in ${CMAKE_BINARY_DIR}/shoal.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/shoal.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
