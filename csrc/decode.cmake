# Decoding, compiled once for each instruction set that this compiler's processor family has.  For _core and the runner.
#
# link_decode(TARGET): its objects go into TARGET, whose policy_decoder.cpp chooses among them when the program runs.

# add_decode(NAME ROWS OPTIONS...): one of them; ROWS of a matrix product are what its registers hold.
macro(add_decode NAME ROWS)
  list(APPEND VINTIX_FAST_IMPLEMENTATIONS ${NAME})
  add_library(decode_${NAME} OBJECT ${CMAKE_CURRENT_LIST_DIR}/decode_rows.cpp)
  target_compile_definitions(decode_${NAME} PRIVATE VF_NAMESPACE=${NAME} VF_ROWS=${ROWS})
  # A product and a sum may become one rounding.  GCC's own headers trip over -Wmaybe-uninitialized.
  target_compile_options(decode_${NAME} PRIVATE
    -Wall -Wextra -Wno-psabi -Wno-maybe-uninitialized -ffp-contract=fast ${ARGN})
  set_target_properties(decode_${NAME} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endmacro()

add_decode(portable 1)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  add_decode(avx2 2 -mavx2 -mfma)
  add_decode(avx512 8 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mprefer-vector-width=512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  add_decode(neon 1 -DVF_NEON)
  add_decode(neon_dotprod 1 -DVF_NEON -march=armv8.2-a+dotprod)
endif()

function(link_decode TARGET)
  foreach(NAME ${VINTIX_FAST_IMPLEMENTATIONS})
    target_sources(${TARGET} PRIVATE $<TARGET_OBJECTS:decode_${NAME}>)
    target_compile_definitions(${TARGET} PRIVATE VINTIX_FAST_${NAME})
  endforeach()
endfunction()
