// vintix_fast._core.TrajectoryWriter: checks arguments, releases the GIL around calls that block, translates errors; no
// logic of its own.

#include <pybind11/stl/filesystem.h>

#include <array>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "trajectory_writer.hpp"

namespace vintix_fast {
namespace {

using namespace py::literals;

constexpr std::size_t kMaxFields = 64;
constexpr std::int64_t kMaxEnvs = 8000;  // an int64 for each must fit into one HDF5 attribute, 64 KB at most

constexpr std::size_t kMostBytes = std::size_t{1} << 34;  // of any one buffer; HDF5's chunks end at a fourth of it

using Checked = const void* (*)(const char* label, const py::handle& object, const Shape& shape);

template <typename T>
const void* checked_data(const char* label, const py::handle& object, const Shape& shape) {
  return checked<T>(label, object, shape);
}

// In the order of ElementType.
constexpr std::pair<const char*, Checked> kTypes[] = {
    {"float32", checked_data<float>}, {"int32", checked_data<std::int32_t>}, {"uint8", checked_data<std::uint8_t>}};

// -------------------------------------------------------------------------------------------- constructor's arguments

std::size_t positive(const char* name, std::int64_t value) {
  if (value < 1) throw py::value_error(std::string(name) + ": expected at least 1, got " + std::to_string(value));
  return static_cast<std::size_t>(value);
}

// The product, for a buffer of so many bytes; what does not fit into 64 bits is too much as well.
std::size_t buffer_bytes(const std::string& name, std::initializer_list<std::size_t> factors) {
  std::size_t bytes = 1;
  for (const std::size_t factor : factors) {
    if (__builtin_mul_overflow(bytes, factor, &bytes) || bytes > kMostBytes) {
      throw py::value_error(name + ": too large: a buffer would have more than " + std::to_string(kMostBytes) +
                            " bytes");
    }
  }
  return bytes;
}

ElementType element_type(const std::string& field, const std::string& dtype) {
  for (int type = 0; type < 3; ++type) {
    if (dtype == kTypes[type].first) return static_cast<ElementType>(type);
  }
  throw py::value_error("fields: '" + field + "': expected dtype float32, int32 or uint8, got '" + dtype + "'");
}

void check_name(const char* argument, const std::string& name, const std::string& forbidden) {
  if (name.empty() || name == "." || name.find_first_of(forbidden + std::string(1, '\0')) != name.npos) {
    throw py::value_error(std::string(argument) + ": not a name that HDF5 can store: '" + name + "'");
  }
}

using FieldArgument = std::tuple<std::string, std::vector<std::int64_t>, std::string>;

std::vector<Field> checked_fields(const std::vector<FieldArgument>& arguments) {
  if (arguments.empty() || arguments.size() > kMaxFields) {
    throw py::value_error("fields: expected 1 to " + std::to_string(kMaxFields) + ", got " +
                          std::to_string(arguments.size()));
  }
  std::vector<Field> fields;
  std::set<std::string> names;
  for (const auto& [name, shape, dtype] : arguments) {
    check_name("fields", name, "/");
    if (!names.insert(name).second) throw py::value_error("fields: '" + name + "' is there twice");
    Field field{name, {}, element_type(name, dtype)};
    std::size_t row_bytes = field.row_bytes();
    for (const std::int64_t size : shape) {
      if (size < 1) {
        throw py::value_error("fields: '" + name + "': expected positive sizes, got " + std::to_string(size));
      }
      field.shape.push_back(static_cast<std::size_t>(size));
      row_bytes = buffer_bytes("fields: '" + name + "'", {row_bytes, field.shape.back()});
    }
    fields.push_back(std::move(field));
  }
  return fields;
}

std::map<std::string, std::string> checked_attributes(std::map<std::string, std::string> attributes) {
  for (const auto& [name, value] : attributes) {
    check_name("attributes_json", name, "");
    if (name == "stream_env" || name == "stream_length" || name == "closed_cleanly") {
      throw py::value_error("attributes_json: '" + name + "' is written by the writer itself; use another name");
    }
    if (value.find('\0') != value.npos) {
      throw py::value_error("attributes_json: '" + name + "': a string attribute cannot hold a NUL character");
    }
  }
  return attributes;
}

// ------------------------------------------------------------------------------------------------- append's arguments

struct ArraySpec {
  py::str name;
  std::string label;  // in errors
  Checked checked;
  Shape shape;
};

// ---------------------------------------------------------------------------------------------------------- the class

class BoundWriter {
 public:
  explicit BoundWriter(const WriterConfig& config) {
    const auto num_envs = static_cast<py::ssize_t>(config.num_envs);
    active_shape_ = {num_envs};
    for (const Field& field : config.fields) {
      Shape shape{num_envs};
      shape.insert(shape.end(), field.shape.begin(), field.shape.end());
      specs_.push_back({py::str(field.name), "append: '" + field.name + "'", kTypes[static_cast<int>(field.type)].second, std::move(shape)});
    }
    const py::gil_scoped_release release;
    writer_ = std::make_unique<TrajectoryWriter>(config);
  }

  ~BoundWriter() { abort(); }

  void append(const py::dict& arrays, const py::handle& active) {
    std::array<const void*, kMaxFields> data;
    for (std::size_t f = 0; f < specs_.size(); ++f) {
      PyObject* array = PyDict_GetItemWithError(arrays.ptr(), specs_[f].name.ptr());
      if (array == nullptr) throw_field_error(arrays);
      data[f] = specs_[f].checked(specs_[f].label.c_str(), array, specs_[f].shape);
    }
    if (arrays.size() != specs_.size()) throw_field_error(arrays);
    const std::uint8_t* flags = checked_active(active);
    if (writer_->append(data.data(), flags, /*wait=*/false)) return;
    const py::dict kept = py::reinterpret_steal<py::dict>(PyDict_Copy(arrays.ptr()));  // others may run meanwhile
    const py::gil_scoped_release release;
    writer_->append(data.data(), flags, /*wait=*/true);
  }

  void close() {
    const py::gil_scoped_release release;
    writer_->close();
  }

  void abort() {
    const py::gil_scoped_release release;
    writer_->abort();
  }

  py::dict stats() const {
    const WriterStats stats = writer_->stats();
    return py::dict("queue_capacity"_a = writer_->config().queue_capacity,
                    "max_queue_depth"_a = stats.max_queue_depth, "waits"_a = stats.waits,
                    "wait_seconds"_a = stats.wait_seconds);
  }

 private:
  const std::uint8_t* checked_active(const py::handle& object) const {
    constexpr const char* label = "append: 'active'";
    if (!py::isinstance<py::array_t<bool>>(object)) return checked<std::uint8_t>(label, object, active_shape_);
    return reinterpret_cast<const std::uint8_t*>(checked<bool>(label, object, active_shape_));
  }

  [[noreturn]] void throw_field_error(const py::dict& arrays) const {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    py::list expected;
    for (const ArraySpec& spec : specs_) expected.append(spec.name);
    throw py::value_error("append: expected exactly the fields " + text(expected) + ", got " + text(py::list(arrays)));
  }

  std::vector<ArraySpec> specs_;
  Shape active_shape_;
  std::unique_ptr<TrajectoryWriter> writer_;
};

std::unique_ptr<BoundWriter> make_writer(const std::filesystem::path& path, std::int64_t num_envs,
                                         const std::vector<FieldArgument>& fields,
                                         const std::map<std::string, std::string>& attributes_json,
                                         std::int64_t queue_capacity, std::int64_t flush_every,
                                         std::int64_t block_len) {
  if (num_envs > kMaxEnvs) {
    throw py::value_error("num_envs: expected at most " + std::to_string(kMaxEnvs) + ", got " +
                          std::to_string(num_envs) + "; write several files");
  }
  const WriterConfig config{
      std::filesystem::absolute(path).string(), positive("num_envs", num_envs), checked_fields(fields),
      checked_attributes(attributes_json), positive("queue_capacity", queue_capacity),
      positive("flush_every", flush_every), positive("block_len", block_len)};
  std::size_t row_bytes = 1;  // the flag that says whether the environment takes part
  for (const Field& field : config.fields) row_bytes += field.row_bytes();
  buffer_bytes("queue_capacity", {config.num_envs, row_bytes, config.queue_capacity});
  buffer_bytes("flush_every", {config.num_envs, row_bytes, config.flush_every});
  buffer_bytes("block_len", {row_bytes, config.block_len});
  return std::make_unique<BoundWriter>(config);
}

}  // namespace

void bind_trajectory_writer(py::module_& module) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const WriteError& error) {
      const auto message = py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(error.what()));
      py::object exception = py::reinterpret_borrow<py::object>(PyExc_OSError)(message);
      if (error.error_number != 0) exception.attr("errno") = error.error_number;
      PyErr_SetObject(PyExc_OSError, exception.ptr());
    }
  });
  py::class_<BoundWriter>(module, "TrajectoryWriter", "See _core.pyi and csrc/trajectory_writer.hpp.")
      .def(py::init(&make_writer), py::arg("path"), py::arg("num_envs"), py::arg("fields"),
           py::arg("attributes_json"), py::arg("queue_capacity") = 64, py::arg("flush_every") = 100,
           py::arg("block_len") = 1000)
      .def("append", &BoundWriter::append, py::arg("arrays"), py::arg("active"))
      .def("close", &BoundWriter::close)
      .def("abort", &BoundWriter::abort)
      .def_property_readonly("stats", &BoundWriter::stats)
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](BoundWriter& self, const py::object& type, const py::object&, const py::object&) {
        type.is_none() ? self.close() : self.abort();
        return false;
      });
}

}  // namespace vintix_fast
