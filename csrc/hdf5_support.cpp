#include "hdf5_support.hpp"

#include <cstdlib>
#include <string_view>
#include <system_error>

namespace vintix_fast {
namespace {

struct ErrorTrail {
  std::string innermost;
  std::string outermost;
  int error_number = 0;
};

herr_t note_error(unsigned, const H5E_error2_t* error, void* trail_pointer) {
  auto& trail = *static_cast<ErrorTrail*>(trail_pointer);
  const std::string_view text = error->desc != nullptr ? error->desc : "";
  if (trail.innermost.empty()) trail.innermost = text;
  trail.outermost = text;
  // The file driver reports "... errno = 28, error message = ..." in its text; there is no other way to learn it.
  constexpr std::string_view key = "errno = ";
  if (const auto at = text.find(key); at != text.npos && trail.error_number == 0) {
    trail.error_number = std::atoi(text.data() + at + key.size());
  }
  return 0;
}

}  // namespace

void throw_errno(int error_number) {
  throw WriteError(std::generic_category().message(error_number), error_number);
}

void throw_hdf5_error() {
  ErrorTrail trail;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, note_error, &trail);
  if (trail.error_number != 0) {
    throw WriteError(std::generic_category().message(trail.error_number) + " (HDF5: " + trail.outermost + ")",
                     trail.error_number);
  }
  throw WriteError("HDF5: " + trail.outermost + " (" + trail.innermost + ")", 0);
}

void write_string_attribute(hid_t file, const std::string& name, const std::string& value) {
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  check(H5Tset_size(type, H5T_VARIABLE));
  check(H5Tset_cset(type, H5T_CSET_UTF8));
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(H5Acreate2(file, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  const char* text = value.c_str();
  check(H5Awrite(attribute, type, &text));
}

Handle create_int_attribute(hid_t file, const char* name, std::int64_t value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  Handle attribute(H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  check(H5Awrite(attribute, H5T_NATIVE_INT64, &value));
  return attribute;
}

Handle create_int_array_attribute(hid_t file, const char* name, const std::vector<std::int64_t>& values) {
  const hsize_t size = values.size();
  const Handle space(H5Screate_simple(1, &size, nullptr), H5Sclose);
  Handle attribute(H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (size > 0) check(H5Awrite(attribute, H5T_NATIVE_INT64, values.data()));
  return attribute;
}

}  // namespace vintix_fast
