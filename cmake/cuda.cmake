# Whether the CUDA device plugin can be built: sets GPU_SCHED_HAS_CUDA, and enables the language.
set(GPU_SCHED_CUDA AUTO CACHE STRING
    "The CUDA device plugin: AUTO builds it where the toolkit is found, ON demands it, OFF does not")
set_property(CACHE GPU_SCHED_CUDA PROPERTY STRINGS AUTO ON OFF)
# Code for Ampere and Hopper, which their successors of the same generation run too; and what the
# driver can translate for later cards. "native" for the card of this machine alone.
set(GPU_SCHED_CUDA_ARCHITECTURES "80-real;90" CACHE STRING
    "What the kernels are compiled for, as CMAKE_CUDA_ARCHITECTURES")

set(GPU_SCHED_HAS_CUDA OFF)
if(GPU_SCHED_CUDA STREQUAL "OFF")
    return()
endif()

include(CheckLanguage)
find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND)
    # Or CMake would look for a compiler elsewhere than for the rest.
    if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX}
       AND EXISTS ${CUDAToolkit_BIN_DIR}/nvcc)
        set(CMAKE_CUDA_COMPILER ${CUDAToolkit_BIN_DIR}/nvcc)
    endif()
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
        set(CMAKE_CUDA_ARCHITECTURES 80)
    endif()
    check_language(CUDA)
endif()

set(missing "")
if(NOT CUDAToolkit_FOUND)
    set(missing "the CUDA toolkit was not found")
elseif(NOT CMAKE_CUDA_COMPILER)
    set(missing "nvcc was not found, or does not take this C++ compiler")
elseif(NOT TARGET CUDA::cudart_static OR NOT TARGET CUDA::cublasLt)
    set(missing "the toolkit lacks the static runtime or cuBLASLt")
elseif(CUDAToolkit_VERSION VERSION_LESS 12.0)
    set(missing "CUDA ${CUDAToolkit_VERSION} is too old, 12.0 is the least")
endif()

if(GPU_SCHED_SANITIZE)
    set(missing "its compiler has no sanitizers: the tests run it on the host")
endif()

if(missing STREQUAL "")
    enable_language(CUDA)
    set(GPU_SCHED_HAS_CUDA ON)
    message(STATUS "CUDA device plugin: with CUDA ${CUDAToolkit_VERSION}, for "
                   "${GPU_SCHED_CUDA_ARCHITECTURES}")
elseif(GPU_SCHED_CUDA STREQUAL "ON")
    message(FATAL_ERROR "GPU_SCHED_CUDA=ON: ${missing}")
else()
    message(STATUS "CUDA device plugin: not built, ${missing}")
endif()
