// The few things that every caller of the HDF5 C library here needs: errors as exceptions, identifiers that close
// themselves, attributes.  Knows nothing about trajectories.  To be called from the thread that owns the file.

#pragma once

#include <hdf5.h>

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace vintix_fast {

// The operating system or HDF5 refused; what() is the cause, error_number the errno behind it (0: none known).
class WriteError : public std::runtime_error {
 public:
  WriteError(const std::string& cause, int error_number) : std::runtime_error(cause), error_number(error_number) {}
  int error_number;
};

[[noreturn]] inline void throw_errno(int error_number) {
  throw WriteError(std::generic_category().message(error_number), error_number);
}

// Throws what HDF5's error stack of this thread says about the call that just failed.
[[noreturn]] inline void throw_hdf5_error() {
  struct Trail {
    std::string innermost, outermost;
    int error_number = 0;
  } trail;
  const H5E_walk2_t note = [](unsigned, const H5E_error2_t* error, void* trail_pointer) -> herr_t {
    auto& told = *static_cast<Trail*>(trail_pointer);
    const std::string_view text = error->desc != nullptr ? error->desc : "";
    if (told.innermost.empty()) told.innermost = text;
    told.outermost = text;
    // The file driver reports "... errno = 28, error message = ..." in its text; there is no other way to learn it.
    constexpr std::string_view key = "errno = ";
    if (const auto at = text.find(key); at != text.npos && told.error_number == 0) {
      told.error_number = std::atoi(text.data() + at + key.size());
    }
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, note, &trail);
  if (trail.error_number == 0) throw WriteError("HDF5: " + trail.outermost + " (" + trail.innermost + ")", 0);
  throw WriteError(std::generic_category().message(trail.error_number) + " (HDF5: " + trail.outermost + ")",
                   trail.error_number);
}

// Passes on the result of an HDF5 call (hid_t or herr_t) or throws.
template <typename Result>
Result check(Result result) {
  if (result < 0) throw_hdf5_error();
  return result;
}

// A short-lived HDF5 identifier.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(check(id)), close_(close) {}
  ~Handle() { close_(id_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }

 private:
  const hid_t id_;
  herr_t (*const close_)(hid_t);
};

inline void write_string_attribute(hid_t file, const std::string& name, const std::string& value) {
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  check(H5Tset_size(type, H5T_VARIABLE));
  check(H5Tset_cset(type, H5T_CSET_UTF8));
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(H5Acreate2(file, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  const char* text = value.c_str();
  check(H5Awrite(attribute, type, &text));
}

inline void write_int_attribute(hid_t file, const char* name, hid_t space, const std::int64_t* values) {
  const Handle attribute(H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (H5Sget_simple_extent_npoints(space) > 0) check(H5Awrite(attribute, H5T_NATIVE_INT64, values));
}

}  // namespace vintix_fast
