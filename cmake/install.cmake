# What belongs to no single target: pages, examples, and the files by which others find us. A
# library and its headers are installed by the folder that builds them.
include(CMakePackageConfigHelpers)

file(GLOB pages CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/man/*.[1-9])
foreach(page ${pages})
  string(REGEX REPLACE ".*\\.([1-9])$" "\\1" section ${page})
  install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
endforeach()
# A page of section 3 describes several calls; each gets a page that sends to it.
file(GLOB pages CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/man/*.3)
foreach(page ${pages})
  get_filename_component(target ${page} NAME)
  file(STRINGS ${page} names REGEX "^\\.Nm btd_[a-z_]+( ,)?$")
  foreach(name ${names})
    string(REGEX REPLACE "^\\.Nm (btd_[a-z_]+).*" "\\1.3" link ${name})
    if(NOT link STREQUAL target)
      file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/man/${link} CONTENT ".so man3/${target}\n" @ONLY)
      install(FILES ${PROJECT_BINARY_DIR}/man/${link} DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)
    endif()
  endforeach()
endforeach()
install(FILES README.md CHANGELOG.md LICENSE packaging/bartender.toml
        DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(made ${PROJECT_BINARY_DIR}/packaging)
configure_file(packaging/bartender.service.in ${made}/bartender.service @ONLY)
install(FILES ${made}/bartender.service DESTINATION lib/systemd/system)

configure_file(packaging/bartender.pc.in ${made}/bartender.pc @ONLY)
install(FILES ${made}/bartender.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/bartender)
configure_package_config_file(packaging/bartenderConfig.cmake.in ${made}/bartenderConfig.cmake
  INSTALL_DESTINATION ${package_dir} PATH_VARS CMAKE_INSTALL_SBINDIR)
install(EXPORT bartender NAMESPACE bartender:: FILE bartenderTargets.cmake
        DESTINATION ${package_dir})
write_basic_package_version_file(${made}/bartenderConfigVersion.cmake
  COMPATIBILITY SameMajorVersion)
install(FILES ${made}/bartenderConfig.cmake ${made}/bartenderConfigVersion.cmake
        DESTINATION ${package_dir})
