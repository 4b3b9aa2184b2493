# Decoding, compiled once for each instruction set that this compiler's processor family has.  For _core and the runner.
#
# link_decode(TARGET): its objects go into TARGET, whose policy_decoder.cpp chooses among them when the program runs.

set(VINTIX_FAST_IMPLEMENTATIONS portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND VINTIX_FAST_IMPLEMENTATIONS avx2 avx512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  list(APPEND VINTIX_FAST_IMPLEMENTATIONS neon neon_dotprod)
endif()
set(FLAGS_avx2 -mavx2 -mfma)
set(FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mprefer-vector-width=512)
set(FLAGS_neon -DVF_NEON)
set(FLAGS_neon_dotprod -DVF_NEON -march=armv8.2-a+dotprod)
set(ROWS_portable 1)
set(ROWS_avx2 2)
set(ROWS_avx512 8)
set(ROWS_neon 1)
set(ROWS_neon_dotprod 1)
foreach(NAME ${VINTIX_FAST_IMPLEMENTATIONS})
  add_library(decode_${NAME} OBJECT ${CMAKE_CURRENT_LIST_DIR}/decode_rows.cpp)
  target_compile_definitions(decode_${NAME} PRIVATE VF_NAMESPACE=${NAME} VF_ROWS=${ROWS_${NAME}})
  # A product and a sum may become one rounding.  GCC's own headers trip over -Wmaybe-uninitialized.
  target_compile_options(decode_${NAME} PRIVATE
    -Wall -Wextra -Wno-psabi -Wno-maybe-uninitialized -ffp-contract=fast ${FLAGS_${NAME}})
  set_target_properties(decode_${NAME} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endforeach()

function(link_decode TARGET)
  foreach(NAME ${VINTIX_FAST_IMPLEMENTATIONS})
    target_sources(${TARGET} PRIVATE $<TARGET_OBJECTS:decode_${NAME}>)
    target_compile_definitions(${TARGET} PRIVATE VINTIX_FAST_${NAME})
  endforeach()
endfunction()
