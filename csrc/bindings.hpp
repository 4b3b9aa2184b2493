// The parts of vintix_fast._core, each bound in a file of its own, and how all of them take arrays.
//
// One convention: an array comes by name, of exactly one type and shape, C-contiguous.  It is neither converted nor
// copied, and no address is ever passed as a number.  What does not fit is a TypeError (type) or ValueError (shape,
// layout) that shows the name, what was expected and what was given.  bfloat16, which numpy lacks, comes as its bits,
// in uint16.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace py = pybind11;

namespace vintix_fast {

using Shape = std::vector<py::ssize_t>;

inline std::string text(const py::handle& object) { return py::str(object); }

// Throws TypeError unless it is an array of exactly this type.
template <typename T>
py::array typed(const char* name, const py::handle& object) {
  if (!py::isinstance<py::array_t<T>>(object)) {
    const std::string got = py::isinstance<py::array>(object) ? "dtype " + text(object.attr("dtype"))
                                                              : text(py::type::of(object).attr("__name__"));
    throw py::type_error(std::string(name) + ": expected a numpy array of dtype " + text(py::dtype::of<T>()) +
                         ", got " + got);
  }
  return py::reinterpret_borrow<py::array>(object);
}

inline bool has_shape(const py::array& array, const Shape& shape) {
  return std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim());
}

// Throws ValueError: the array is not ``expected``, such as "a C-contiguous array", of this shape.
[[noreturn]] inline void throw_layout_error(const char* name, const char* expected, const Shape& shape,
                                            const py::array& array) {
  throw py::value_error(std::string(name) + ": expected " + expected + " of shape " +
                              text(py::cast(shape)) + ", got shape " + text(array.attr("shape")) +
                              " and strides " + text(array.attr("strides")));
}

// The data of a C-contiguous array of exactly this type and shape; throws TypeError or ValueError with ``name``.
template <typename T>
const T* checked(const char* name, const py::handle& object, const Shape& shape) {
  const py::array array = typed<T>(name, object);
  if (!has_shape(array, shape) || !(array.flags() & py::array::c_style)) {
    throw_layout_error(name, "a C-contiguous array", shape, array);
  }
  return static_cast<const T*>(array.data());
}

// The same, to be written to; throws ValueError where it is read-only.
template <typename T>
T* writeable(const char* name, const py::handle& object, const Shape& shape) {
  T* const data = const_cast<T*>(checked<T>(name, object, shape));
  if (!py::reinterpret_borrow<py::array>(object).writeable()) {
    throw py::value_error(std::string(name) + ": expected an array that can be written to, got a read-only one");
  }
  return data;
}

inline Shape shape_of(const py::array& array) { return {array.shape(), array.shape() + array.ndim()}; }
inline py::ssize_t length_of(const py::array& array) { return array.ndim() > 0 ? array.shape(0) : 0; }

void bind_policy_decoder(py::module_& module);
void bind_task(py::module_& module);
void bind_training(py::module_& module);
void bind_trajectory_writer(py::module_& module);

}  // namespace vintix_fast
