# Warnings are errors in our own sources.
add_library(gn_warnings INTERFACE)
target_compile_options(gn_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror>)
