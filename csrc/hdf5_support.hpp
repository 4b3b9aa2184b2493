// The few things that every caller of the HDF5 C library here needs: errors as exceptions, identifiers that close
// themselves, attributes.  Knows nothing about trajectories.  To be called from the thread that owns the file.

#pragma once

#include <hdf5.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace vintix_fast {

// The operating system or HDF5 refused; what() is the cause, error_number the errno behind it (0: none known).
class WriteError : public std::runtime_error {
 public:
  WriteError(const std::string& cause, int error_number) : std::runtime_error(cause), error_number(error_number) {}
  int error_number;
};

[[noreturn]] void throw_errno(int error_number);

// Throws what HDF5's error stack of this thread says about the call that just failed.
[[noreturn]] void throw_hdf5_error();

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
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void write_string_attribute(hid_t file, const std::string& name, const std::string& value);

// Both return the new attribute, still open.
Handle create_int_attribute(hid_t file, const char* name, std::int64_t value);
Handle create_int_array_attribute(hid_t file, const char* name, const std::vector<std::int64_t>& values);

}  // namespace vintix_fast
