// The HDF5 side of the trajectory writer: rows in, one HDF5 file out.
//
//   add_step -> rows waiting per environment -> flush -> <path>.partial -> finish -> <path>
//
// While it grows, the partial file holds one group per block of an environment's stream ("env_0003_block_0002"), each
// with one chunked dataset per field.  finish() renames the groups to the global transition numbers that readers
// expect ("0-999", "1000-1999", ...), environment after environment, and gives the file its final name.
//
// A killed process must leave a partial file that opens.  Hence:
//   * HDF5 writes metadata only when it is told to flush (evictions are off), so between flushes the file on disk is
//     the one of the last flush, plus raw bytes that nothing refers to yet;
//   * flush() works in two steps, first the rows and the new blocks, not yet linked from anywhere, then the links and
//     the attribute stream_length, which says how many rows of each environment may be trusted;
//   * a block's chunk index is a single node, so that it changes in one write.
// What is left is a kill right within the handful of writes (some microseconds) that link new blocks, once in block_len
// steps, or within finish(): it can damage the root group, and then the file does not open.
//
// Every member function, constructor included, must be called from the same thread, one TrajectoryFile at a time in
// the process (the caller holds a lock: not every HDF5 is built thread-safe).  Nothing here knows about Python.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hdf5_support.hpp"

namespace vintix_fast {

enum class ElementType { float32, int32, uint8 };

struct Field {
  std::string name;
  std::vector<std::size_t> shape;  // of one transition, without the environment axis
  ElementType type;

  std::size_t row_bytes() const;
};

struct WriterConfig {
  std::string path;  // the final name; the file grows as path + ".partial"
  std::size_t num_envs;
  std::vector<Field> fields;
  std::map<std::string, std::string> attributes;  // written as UTF-8 string attributes of the file
  std::size_t queue_capacity;                     // steps
  std::size_t flush_every;                        // steps
  std::size_t block_len;                          // transitions in one group at most

  std::string partial_path() const { return path + ".partial"; }
};

class TrajectoryFile {
 public:
  // Creates the partial file (a leftover of the same name is removed), its attributes, and flushes.
  explicit TrajectoryFile(const WriterConfig& config);

  // Frees memory only.  Without close_partial() or finish() the HDF5 handles stay open on purpose: closing them would
  // write metadata of a failed flush over the last good state.
  ~TrajectoryFile() = default;

  TrajectoryFile(const TrajectoryFile&) = delete;
  TrajectoryFile& operator=(const TrajectoryFile&) = delete;

  // arrays[f]: field f of all environments, [num_envs, *shape]; only rows with active != 0 are taken.
  // At most flush_every calls between two flushes.
  void add_step(const std::vector<const std::byte*>& arrays, const std::uint8_t* active);

  void flush();
  void close_partial();  // flush, close; keeps the name <path>.partial
  void finish();         // flush, final group names and attributes, close, fsync, rename to <path>

  std::size_t steps_since_flush() const { return steps_since_flush_; }

 private:
  struct Stream {                 // one environment's transitions
    std::size_t pending = 0;      // rows in pending_, not yet in the file
    std::vector<hid_t> datasets;  // of the open block, one per field; empty when no block is open
  };

  void write_pending(std::size_t env);
  void open_block(std::size_t env);
  void close_block(Stream& stream);
  void append_rows(std::size_t env, std::size_t source_row, std::size_t first, std::size_t count);
  void link_new_blocks();
  void flush_metadata();
  void close_file();
  void rename_groups();
  void write_stream_attributes(std::int64_t closed_cleanly, const std::vector<std::int64_t>& envs,
                               const std::vector<std::int64_t>& lengths);

  WriterConfig config_;
  std::size_t chunk_len_;  // rows
  std::vector<std::vector<std::byte>> pending_;  // per field: [num_envs, flush_every, row_bytes]
  std::vector<Stream> streams_;
  std::vector<std::pair<hid_t, std::string>> new_blocks_;  // groups made since the last flush, not linked yet
  std::vector<std::int64_t> stream_length_;  // of each environment, rows in the file
  std::size_t steps_since_flush_ = 0;

  hid_t file_ = H5I_INVALID_HID;
};

}  // namespace vintix_fast
