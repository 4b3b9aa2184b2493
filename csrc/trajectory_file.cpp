#include "trajectory_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>

namespace vintix_fast {
namespace {

constexpr std::size_t kChunksPerBlock = 4;
constexpr std::size_t kSmallestChunkRows = 64;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are stored as they lie in memory");

hid_t hdf5_type(ElementType type) {
  return type == ElementType::float32 ? H5T_IEEE_F32LE : type == ElementType::int32 ? H5T_STD_I32LE : H5T_STD_U8LE;
}

std::vector<hsize_t> dimensions(std::size_t rows, const std::vector<std::size_t>& shape) {
  std::vector<hsize_t> dims{rows};
  dims.insert(dims.end(), shape.begin(), shape.end());
  return dims;
}

std::string block_name(std::size_t env, std::size_t block) {
  char name[64];
  std::snprintf(name, sizeof(name), "env_%04zu_block_%04zu", env, block);
  return name;
}

void set_access(hid_t access) {
  // The oldest format keeps no "open for writing" mark, so a killed process's file opens without repair.
  check(H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST));
  check(H5Pset_meta_block_size(access, 64 * 1024));
#if (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 11, 0)) || H5_VERSION_GE(1, 12, 1)
  // Some network file systems refuse locks, and a lock would keep others from looking at the partial file.
  check(H5Pset_file_locking(access, false, true));
#endif
  H5AC_cache_config_t cache;
  cache.version = H5AC__CURR_CACHE_CONFIG_VERSION;
  check(H5Pget_mdc_config(access, &cache));
  cache.evictions_enabled = false;  // refused by HDF5 unless every automatic resize is off as well
  cache.incr_mode = H5C_incr__off;
  cache.flash_incr_mode = H5C_flash_incr__off;
  cache.decr_mode = H5C_decr__off;
  check(H5Pset_mdc_config(access, &cache));
}

void sync_to_disk(const std::string& path, int flags) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC);
  if (descriptor < 0) throw_errno(errno);
  const int result = ::fsync(descriptor);
  const int error_number = errno;
  ::close(descriptor);
  // Some file systems cannot sync (a directory, above all) and say EINVAL: there is nothing to wait for then.
  if (result != 0 && error_number != EINVAL) throw_errno(error_number);
}

}  // namespace

std::size_t Field::row_bytes() const {
  std::size_t bytes = type == ElementType::uint8 ? 1 : 4;
  for (const std::size_t size : shape) bytes *= size;
  return bytes;
}

// --------------------------------------------------------------------------------------------------------- life cycle

TrajectoryFile::TrajectoryFile(const WriterConfig& config)
    : config_(config),
      chunk_len_(std::min(config.block_len, std::max((config.block_len + kChunksPerBlock - 1) / kChunksPerBlock,
                                                     kSmallestChunkRows))),
      streams_(config.num_envs),
      stream_length_(config.num_envs, 0) {
  for (const Field& field : config_.fields) {
    pending_.emplace_back(config_.num_envs * config_.flush_every * field.row_bytes());
  }

  const std::string partial = config_.partial_path();
  // A new inode: whoever still has a leftover open (this process included, after a failure) is not in the way.
  if (::unlink(partial.c_str()) != 0 && errno != ENOENT) throw_errno(errno);

  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  check(H5Pset_istore_k(creation, kChunksPerBlock / 2));  // a chunk index node holds 2k chunks: a whole block
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  set_access(access);
  file_ = check(H5Fcreate(partial.c_str(), H5F_ACC_TRUNC, creation, access));

  for (const auto& [name, value] : config_.attributes) write_string_attribute(file_, name, value);
  std::vector<std::int64_t> all_envs(config_.num_envs);
  std::iota(all_envs.begin(), all_envs.end(), 0);
  write_stream_attributes(0, all_envs, stream_length_);
  flush_metadata();
}

void TrajectoryFile::close_partial() {
  flush();
  close_file();
}

void TrajectoryFile::finish() {
  flush();
  rename_groups();
  for (const char* name : {"closed_cleanly", "stream_env", "stream_length"}) check(H5Adelete(file_, name));
  std::vector<std::int64_t> envs, lengths;
  for (std::size_t env = 0; env < streams_.size(); ++env) {
    if (stream_length_[env] == 0) continue;
    envs.push_back(static_cast<std::int64_t>(env));
    lengths.push_back(stream_length_[env]);
  }
  write_stream_attributes(1, envs, lengths);
  close_file();
  const std::string partial = config_.partial_path();
  sync_to_disk(partial, O_RDONLY);
  if (std::rename(partial.c_str(), config_.path.c_str()) != 0) throw_errno(errno);
  sync_to_disk(std::filesystem::path(config_.path).parent_path() / ".", O_RDONLY | O_DIRECTORY);
}

void TrajectoryFile::rename_groups() {
  std::size_t first = 0;  // global transition number
  for (std::size_t env = 0; env < streams_.size(); ++env) {
    close_block(streams_[env]);
    const std::size_t end = first + static_cast<std::size_t>(stream_length_[env]);
    for (std::size_t block = 0; first < end; ++block) {
      const std::size_t next = std::min(first + config_.block_len, end);
      const std::string name = std::to_string(first) + "-" + std::to_string(next - 1);
      check(H5Lmove(file_, block_name(env, block).c_str(), file_, name.c_str(), H5P_DEFAULT, H5P_DEFAULT));
      first = next;
    }
  }
}

void TrajectoryFile::write_stream_attributes(std::int64_t closed_cleanly, const std::vector<std::int64_t>& envs,
                                             const std::vector<std::int64_t>& lengths) {
  const hsize_t size = envs.size();
  const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose), row(H5Screate_simple(1, &size, nullptr), H5Sclose);
  write_int_attribute(file_, "closed_cleanly", scalar, &closed_cleanly);
  write_int_attribute(file_, "stream_env", row, envs.data());
  write_int_attribute(file_, "stream_length", row, lengths.data());
}

void TrajectoryFile::close_file() {
  for (Stream& stream : streams_) close_block(stream);
  check(H5Fclose(file_));  // the last open identifier: this writes and really closes
  file_ = H5I_INVALID_HID;
}

// --------------------------------------------------------------------------------------------------------------- rows

void TrajectoryFile::add_step(const std::vector<const std::byte*>& arrays, const std::uint8_t* active) {
  for (std::size_t f = 0; f < config_.fields.size(); ++f) {
    const std::size_t row_bytes = config_.fields[f].row_bytes();
    const std::byte* source = arrays[f];
    std::byte* target = pending_[f].data();
    for (std::size_t env = 0; env < streams_.size(); ++env) {
      if (!active[env]) continue;
      const std::size_t row = env * config_.flush_every + streams_[env].pending;
      std::memcpy(target + row * row_bytes, source + env * row_bytes, row_bytes);
    }
  }
  for (std::size_t env = 0; env < streams_.size(); ++env) {
    if (active[env]) ++streams_[env].pending;
  }
  ++steps_since_flush_;
}

void TrajectoryFile::flush() {
  for (std::size_t env = 0; env < streams_.size(); ++env) write_pending(env);
  flush_metadata();  // rows, extents and blocks that nothing refers to yet
  link_new_blocks();
  const Handle attribute(H5Aopen(file_, "stream_length", H5P_DEFAULT), H5Aclose);
  check(H5Awrite(attribute, H5T_NATIVE_INT64, stream_length_.data()));
  flush_metadata();
  steps_since_flush_ = 0;
}

void TrajectoryFile::write_pending(std::size_t env) {
  Stream& stream = streams_[env];
  std::int64_t& length = stream_length_[env];
  std::size_t done = 0;
  while (done < stream.pending) {
    const std::size_t filled = static_cast<std::size_t>(length) % config_.block_len;  // rows in the open block
    if (filled == 0) {
      close_block(stream);
      open_block(env);
    }
    const std::size_t count = std::min(stream.pending - done, config_.block_len - filled);
    append_rows(env, done, filled, count);
    length += static_cast<std::int64_t>(count);
    done += count;
  }
  stream.pending = 0;
}

void TrajectoryFile::open_block(std::size_t env) {
  Stream& stream = streams_[env];
  const hid_t group = check(H5Gcreate_anon(file_, H5P_DEFAULT, H5P_DEFAULT));
  new_blocks_.emplace_back(group, block_name(env, static_cast<std::size_t>(stream_length_[env]) / config_.block_len));
  // Rows go straight to the file, not through a chunk cache: each is written once and never read here.
  const Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  check(H5Pset_chunk_cache(access, 0, 0, H5D_CHUNK_CACHE_W0_DEFAULT));
  for (const Field& field : config_.fields) {
    const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    const auto chunk = dimensions(chunk_len_, field.shape);
    check(H5Pset_chunk(creation, static_cast<int>(chunk.size()), chunk.data()));
    check(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER));
    check(H5Pset_obj_track_times(creation, false));  // the same data gives the same bytes
    const auto empty = dimensions(0, field.shape);
    const auto full = dimensions(config_.block_len, field.shape);
    const Handle space(H5Screate_simple(static_cast<int>(empty.size()), empty.data(), full.data()), H5Sclose);
    stream.datasets.push_back(check(
        H5Dcreate2(group, field.name.c_str(), hdf5_type(field.type), space, H5P_DEFAULT, creation, access)));
  }
}

void TrajectoryFile::append_rows(std::size_t env, std::size_t source_row, std::size_t first, std::size_t count) {
  for (std::size_t f = 0; f < config_.fields.size(); ++f) {
    const Field& field = config_.fields[f];
    const hid_t dataset = streams_[env].datasets[f];
    const auto extent = dimensions(first + count, field.shape);
    check(H5Dset_extent(dataset, extent.data()));

    auto start = dimensions(first, field.shape);
    std::fill(start.begin() + 1, start.end(), 0);
    const auto size = dimensions(count, field.shape);
    const int rank = static_cast<int>(size.size());
    const Handle file_space(H5Screate_simple(rank, extent.data(), nullptr), H5Sclose);
    check(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start.data(), nullptr, size.data(), nullptr));
    const Handle memory_space(H5Screate_simple(rank, size.data(), nullptr), H5Sclose);
    const std::byte* rows = pending_[f].data() + (env * config_.flush_every + source_row) * field.row_bytes();
    check(H5Dwrite(dataset, hdf5_type(field.type), memory_space, file_space, H5P_DEFAULT, rows));
  }
}

void TrajectoryFile::close_block(Stream& stream) {
  for (const hid_t dataset : stream.datasets) check(H5Dclose(dataset));
  stream.datasets.clear();
}

void TrajectoryFile::link_new_blocks() {
  for (const auto& [group, name] : new_blocks_) {
    check(H5Olink(group, file_, name.c_str(), H5P_DEFAULT, H5P_DEFAULT));
    check(H5Gclose(group));
  }
  new_blocks_.clear();
}

void TrajectoryFile::flush_metadata() { check(H5Fflush(file_, H5F_SCOPE_LOCAL)); }

}  // namespace vintix_fast
