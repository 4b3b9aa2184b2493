// The parts of vintix_fast._core, each bound in a file of its own, and how all of them check arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <string>
#include <vector>

namespace vintix_fast {

using Shape = std::vector<pybind11::ssize_t>;

inline std::string text(const pybind11::handle& object) {
  return pybind11::cast<std::string>(pybind11::str(object));
}

// Throws TypeError unless it is an array of exactly this type.
template <typename T>
pybind11::array typed(const char* name, const pybind11::handle& object) {
  namespace py = pybind11;
  if (!py::isinstance<py::array_t<T>>(object)) {
    const std::string got = py::isinstance<py::array>(object) ? "dtype " + text(object.attr("dtype"))
                                                              : text(py::type::of(object).attr("__name__"));
    throw py::type_error(std::string(name) + ": expected a numpy array of dtype " + text(py::dtype::of<T>()) +
                         ", got " + got);
  }
  return py::reinterpret_borrow<py::array>(object);
}

inline bool has_shape(const pybind11::array& array, const Shape& shape) {
  bool same = array.ndim() == static_cast<pybind11::ssize_t>(shape.size());
  for (std::size_t axis = 0; same && axis < shape.size(); ++axis) same = array.shape(axis) == shape[axis];
  return same;
}

// Throws ValueError: the array is not ``expected``, such as "a C-contiguous array", of this shape.
[[noreturn]] inline void throw_layout_error(const char* name, const char* expected, const Shape& shape,
                                            const pybind11::array& array) {
  throw pybind11::value_error(std::string(name) + ": expected " + expected + " of shape " +
                              text(pybind11::cast(shape)) + ", got shape " + text(array.attr("shape")) +
                              " and strides " + text(array.attr("strides")));
}

// The data of a C-contiguous array of exactly this type and shape; throws TypeError or ValueError with ``name``.
template <typename T>
const T* checked(const char* name, const pybind11::handle& object, const Shape& shape) {
  const pybind11::array array = typed<T>(name, object);
  if (!has_shape(array, shape) || !(array.flags() & pybind11::array::c_style)) {
    throw_layout_error(name, "a C-contiguous array", shape, array);
  }
  return static_cast<const T*>(array.data());
}

void bind_causal_attention(pybind11::module_& module);
void bind_decoder_loss(pybind11::module_& module);
void bind_policy_decoder(pybind11::module_& module);
void bind_task(pybind11::module_& module);
void bind_trajectory_writer(pybind11::module_& module);

}  // namespace vintix_fast
