# What `cmake --install` puts where. The tree may be moved: everything in it finds the rest from
# where it lies itself.
#
#   bin/sched-port
#   libexec/gpu_sched/sched-worker, and where CUDA was found libsched-device-cuda.so
#   lib/libsched.so.*, lib/pkgconfig/libsched.pc, lib/cmake/libsched/
#   include/libsched.h, include/libsched/
include(CMakePackageConfigHelpers)

set(GPU_SCHED_LIBEXECDIR ${CMAKE_INSTALL_LIBEXECDIR}/gpu_sched)
set(GPU_SCHED_CMAKEDIR ${CMAKE_INSTALL_LIBDIR}/cmake/libsched)

file(RELATIVE_PATH bin_to_lib /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
file(RELATIVE_PATH libexec_to_lib /${GPU_SCHED_LIBEXECDIR} /${CMAKE_INSTALL_LIBDIR})
set_target_properties(sched-port PROPERTIES
    BUILD_RPATH_USE_ORIGIN ON INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
set_target_properties(sched-worker PROPERTIES
    BUILD_RPATH_USE_ORIGIN ON INSTALL_RPATH "$ORIGIN/${libexec_to_lib}")

install(TARGETS sched-port RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS sched-worker RUNTIME DESTINATION ${GPU_SCHED_LIBEXECDIR})
if(TARGET sched-device-cuda)
    # Where the toolkit's libraries were at build time, if the system does not know them.
    set_target_properties(sched-device-cuda PROPERTIES
        INSTALL_RPATH "$ORIGIN/${libexec_to_lib}" INSTALL_RPATH_USE_LINK_PATH ON)
    install(TARGETS sched-device-cuda LIBRARY DESTINATION ${GPU_SCHED_LIBEXECDIR})
endif()
install(TARGETS sched EXPORT libsched
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY libsched/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
    FILES_MATCHING PATTERN "*.h")

install(EXPORT libsched NAMESPACE libsched:: FILE libschedTargets.cmake
    DESTINATION ${GPU_SCHED_CMAKEDIR})
configure_package_config_file(cmake/libschedConfig.cmake.in
    ${CMAKE_BINARY_DIR}/libschedConfig.cmake INSTALL_DESTINATION ${GPU_SCHED_CMAKEDIR})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/libschedConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/libschedConfig.cmake
    ${CMAKE_BINARY_DIR}/libschedConfigVersion.cmake DESTINATION ${GPU_SCHED_CMAKEDIR})

set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pkgconfig_to_prefix /${pkgconfig_dir} /)
string(REGEX REPLACE "/$" "" pkgconfig_to_prefix "${pkgconfig_to_prefix}")
configure_file(cmake/libsched.pc.in ${CMAKE_BINARY_DIR}/libsched.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/libsched.pc DESTINATION ${pkgconfig_dir})
