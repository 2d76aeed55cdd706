# What does not belong to one target: pages, examples, and what other builds find us by.
include(CMakePackageConfigHelpers)

file(GLOB pages RELATIVE ${PROJECT_SOURCE_DIR}/man ${PROJECT_SOURCE_DIR}/man/*.[1-9])
foreach(page ${pages})
  string(REGEX REPLACE ".*\\.([1-9])$" "\\1" section ${page})
  install(FILES man/${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
endforeach()
install(FILES README.md CHANGELOG.md LICENSE packaging/bartender.toml DESTINATION ${CMAKE_INSTALL_DOCDIR})

# One unit for each mount: its name is the path of the mount point, escaped by systemd-escape.
set(BTD_SYSTEMD_DIR "${CMAKE_INSTALL_PREFIX}/lib/systemd/system" CACHE PATH "Where units go")
configure_file(packaging/bartender@.service.in ${PROJECT_BINARY_DIR}/packaging/bartender@.service @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/packaging/bartender@.service DESTINATION ${BTD_SYSTEMD_DIR})

configure_file(packaging/bartender.pc.in ${PROJECT_BINARY_DIR}/packaging/bartender.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/packaging/bartender.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/bartender)
configure_package_config_file(packaging/bartenderConfig.cmake.in
  ${PROJECT_BINARY_DIR}/packaging/bartenderConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/packaging/bartenderConfigVersion.cmake
  COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/packaging/bartenderConfig.cmake
              ${PROJECT_BINARY_DIR}/packaging/bartenderConfigVersion.cmake
        DESTINATION ${package_dir})
