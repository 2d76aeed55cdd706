# The target btd_fuse: libfuse >= 3.18.3, as `./bootstrap deps` leaves it or as the system has it.
#
# A private one (outside the system's prefixes) is linked statically, so that what is installed
# does not depend on a folder of this checkout.
set(BTD_LIBFUSE_MIN 3.18.3)

if(DEFINED ENV{BTD_DEPS})
  set(BTD_DEPS "$ENV{BTD_DEPS}" CACHE PATH "Prefix of private libraries")
else()
  set(BTD_DEPS "${PROJECT_SOURCE_DIR}/.deps" CACHE PATH "Prefix of private libraries")
endif()
if(EXISTS "${BTD_DEPS}/lib/pkgconfig")
  set(ENV{PKG_CONFIG_PATH} "${BTD_DEPS}/lib/pkgconfig:$ENV{PKG_CONFIG_PATH}")
endif()

pkg_check_modules(FUSE3 QUIET fuse3>=${BTD_LIBFUSE_MIN})
if(NOT FUSE3_FOUND)
  message(FATAL_ERROR "No libfuse >= ${BTD_LIBFUSE_MIN} was found. Run ./bootstrap deps, which builds "
                      "it into ${BTD_DEPS}, or name its folder in PKG_CONFIG_PATH.")
endif()

add_library(btd_fuse INTERFACE)
target_include_directories(btd_fuse SYSTEM INTERFACE ${FUSE3_INCLUDE_DIRS})
target_compile_definitions(btd_fuse INTERFACE FUSE_USE_VERSION=318)
set(BTD_FUSE_ARCHIVE "${FUSE3_LIBDIR}/libfuse3.a")
if(NOT FUSE3_LIBDIR MATCHES "^(/usr)?/lib" AND EXISTS "${BTD_FUSE_ARCHIVE}")
  set(libraries ${FUSE3_STATIC_LIBRARIES})
  list(REMOVE_ITEM libraries fuse3)
  target_link_directories(btd_fuse INTERFACE ${FUSE3_STATIC_LIBRARY_DIRS})
  target_link_libraries(btd_fuse INTERFACE "${BTD_FUSE_ARCHIVE}" ${libraries})
else()
  target_link_libraries(btd_fuse INTERFACE ${FUSE3_LINK_LIBRARIES})
endif()
